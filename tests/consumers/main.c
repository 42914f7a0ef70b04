/* What a C program outside this repository does with the library: a pool in memory of its own, the calls it would
 * make, and the version it was compiled against. Exits with 0 and prints the version, or dies by an assertion. */
#undef NDEBUG
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include <mempool.h>

static unsigned char buffer[4096 + 1];

static bool count(const mempool_block_t *block, void *context)
{
    *(unsigned *)context += block->state == MEMPOOL_BLOCK_LIVE;
    return true;
}

int main(void)
{
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    mempool_stats_t stats = MEMPOOL_STATS_INIT;
    mempool_t *pool = NULL;
    unsigned live = 0;

    options.min_split = 32;
    assert(mempool_init(buffer + 1, sizeof buffer - 1, &options, &pool) == MEMPOOL_OK);

    char *text = (char *)mempool_malloc(pool, 8);
    int *numbers = MEMPOOL_NEW0(pool, int, 10);
    assert(text != NULL && numbers != NULL && numbers[9] == 0);
    strcpy(text, "pooled");
    text = (char *)mempool_realloc(pool, text, 800);
    assert(text != NULL && strcmp(text, "pooled") == 0);

    assert(mempool_walk(pool, count, &live) == MEMPOOL_OK && live == 2);
    assert(mempool_free(pool, numbers) == MEMPOOL_OK);
    assert(mempool_free(pool, numbers) == MEMPOOL_ERR_NOT_ALLOCATED);
    assert(mempool_last_error() == MEMPOOL_ERR_NOT_ALLOCATED && mempool_last_message()[0] != '\0');
    assert(mempool_free(pool, text) == MEMPOOL_OK);
    assert(mempool_stats(pool, &stats) == MEMPOOL_OK && stats.used_count == 0 && stats.rejected_frees == 1);
    assert(mempool_check(pool) == MEMPOOL_OK);
    assert(mempool_detach(pool) == MEMPOOL_OK);

    /* The library that runs is the one whose header was compiled. */
    assert(mempool_version_number()
           == (MEMPOOL_VERSION_MAJOR << 16 | MEMPOOL_VERSION_MINOR << 8 | MEMPOOL_VERSION_PATCH));
    puts(mempool_version());
    return 0;
}
