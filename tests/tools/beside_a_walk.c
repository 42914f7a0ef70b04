/* A correct program: threads walk the pool all the while, and what they see is gone, or another block, by the time
 * that they are shown it. Blocks of very different sizes follow each other in the same place; no tool may take what is in
 * one for what lay in the other. */
#include "../../c-tests/programs/test.h"

#include <pthread.h>

enum { SMALL = 64, WALKERS = 6 };

static unsigned char memory[256 * KIB];
static mempool_t *pool;
static uint64_t deadline_ns;

static void *work(void *context)
{
    (void)context;
    while (now_ns() < deadline_ns) {
        unsigned char *large = mempool_malloc(pool, 64 * KIB);
        CHECK(large != NULL);
        for (unsigned turn = 0; turn < 100; turn++)
            memset(large, 1, 64 * KIB);
        mempool_free(pool, large);
        unsigned char *small[SMALL];
        for (unsigned i = 0; i < SMALL; i++) {
            small[i] = mempool_malloc(pool, 48);
            CHECK(small[i] != NULL);
        }
        for (unsigned turn = 0; turn < 1000; turn++)
            for (unsigned i = 0; i < SMALL; i++)
                memset(small[i], 2, 48);
        for (unsigned i = 0; i < SMALL; i++)
            mempool_free(pool, small[i]);
    }
    return NULL;
}

static bool pass_by(const mempool_block_t *block, void *context)
{
    (void)context;
    return block->size > 0;
}

static void *walk(void *context)
{
    while (now_ns() < deadline_ns)
        OK(mempool_walk(pool, pass_by, context));
    return NULL;
}

int main(void)
{
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    options.flags = MEMPOOL_NO_THREAD_CACHES;
    pool = new_pool(memory, sizeof memory, &options);
    deadline_ns = now_ns() + 10 * run_ns();
    pthread_t walkers[WALKERS];
    for (unsigned i = 0; i < WALKERS; i++)
        CHECK(pthread_create(&walkers[i], NULL, walk, NULL) == 0);
    work(NULL);
    for (unsigned i = 0; i < WALKERS; i++)
        CHECK(pthread_join(walkers[i], NULL) == 0);
    OK(mempool_detach(pool));
    return PASSED();
}
