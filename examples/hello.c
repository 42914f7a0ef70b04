/*
 * A pool in a static array.
 *
 *   cc -std=c11 hello.c $(pkg-config --cflags --libs mempool) -o hello && ./hello
 */
#include <mempool.h>
#include <stdio.h>
#include <string.h>

static unsigned char buffer[4096];

int main(void) {
    mempool_t *pool;
    if (mempool_init(buffer, sizeof buffer, NULL, &pool) != MEMPOOL_OK) {
        fprintf(stderr, "%s\n", mempool_last_message());
        return 1;
    }

    char *text = mempool_malloc(pool, 32);
    int *numbers = MEMPOOL_NEW0(pool, int, 100);
    if (!text || !numbers)
        return 1;
    strcpy(text, "hello from the pool");
    printf("%s, at offset %llu; numbers[99] is %d\n", text, (unsigned long long)mempool_offset(pool, text), numbers[99]);

    mempool_free(pool, numbers);
    if (mempool_free(pool, numbers) != MEMPOOL_OK)                  /* a mistake, refused */
        printf("refused: %s\n", mempool_last_message());

    mempool_free(pool, text);
    mempool_stats_t stats = MEMPOOL_STATS_INIT;
    mempool_stats(pool, &stats);
    printf("%llu blocks in use, %llu of %zu bytes available\n", (unsigned long long)stats.used_count,
           (unsigned long long)stats.available, sizeof buffer);
    return mempool_check(pool) == MEMPOOL_OK && mempool_detach(pool) == MEMPOOL_OK ? 0 : 1;
}
