/* The header alone, as C11: it needs no other before it, stands being included twice, and its macros work. */
#include "mempool.h"
#include "mempool.h"

#include "check.h"

#include <stdalign.h>
#include <stddef.h>

/* Structures of version 0.1 never change but by growing. */
_Static_assert(offsetof(mempool_options_t, max_threads) == 44, "mempool_options_t");
_Static_assert(offsetof(mempool_stats_t, pool_id) == 144, "mempool_stats_t");
_Static_assert(sizeof(mempool_block_t) == 24, "mempool_block_t");
_Static_assert(sizeof(mempool_status_t) == 4 && (mempool_status_t)-1 < 0, "mempool_status_t");
_Static_assert(MEMPOOL_OK == 0 && MEMPOOL_ERR_BUSY == -12, "constants are constant expressions");
#if MEMPOOL_VERSION_MAJOR == 0 && MEMPOOL_VERSION_MINOR == 0 && MEMPOOL_VERSION_PATCH == 0
#error "versions are known to the preprocessor"
#endif

struct point {
    double x, y;
};

static alignas(16) unsigned char buffer[16384];

int main(void)
{
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    const mempool_options_t all_zero = {.struct_size = sizeof(mempool_options_t)};
    CHECK(memcmp(&options, &all_zero, sizeof options) == 0);
    mempool_stats_t stats = MEMPOOL_STATS_INIT;
    const mempool_stats_t all_zero_stats = {.struct_size = sizeof(mempool_stats_t)};
    CHECK(memcmp(&stats, &all_zero_stats, sizeof stats) == 0);

    mempool_t *pool;
    CHECK(mempool_init(buffer, sizeof buffer, &options, &pool) == MEMPOOL_OK);
    struct point *points = MEMPOOL_NEW(pool, struct point, 10);
    CHECK(points != NULL && mempool_usable_size(pool, points) >= 10 * sizeof *points);
    points[9].y = 1.5;
    CHECK(mempool_free(pool, points) == MEMPOOL_OK);
    int *numbers = MEMPOOL_NEW0(pool, int, 2 + 3);
    for (int i = 0; i < 5; i++) {
        CHECK(numbers != NULL && numbers[i] == 0);
    }
    CHECK(mempool_free(pool, numbers) == MEMPOOL_OK);

    volatile size_t too_many = SIZE_MAX / sizeof(struct point) + 2, none = 0; /* its product overflows to little */
    errno = 0;
    CHECK(MEMPOOL_NEW(pool, struct point, too_many) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(MEMPOOL_NEW0(pool, struct point, too_many) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(MEMPOOL_NEW(pool, struct point, none) == NULL && errno == EINVAL);

    CHECK(mempool_stats(pool, &stats) == MEMPOOL_OK && stats.used_count == 0 && stats.total == sizeof buffer);
    CHECK(mempool_detach(pool) == MEMPOOL_OK);
    return PASSED();
}
