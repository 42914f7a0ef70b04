/* A program whose malloc is a pool: whatever the library itself, the C library and threads allocate comes from it, from
 * inside a thread's first call too. */
#include "test.h"

#include <pthread.h>
#include <stdint.h>
#include <string.h>

static mempool_t *pool;
static _Alignas(64) unsigned char early[1 << 16]; /* until there is a pool, and for its handle */
static size_t early_used;

static void *early_alloc(size_t size)
{
    void *block = early + early_used;
    early_used += (size + 15) / 16 * 16;
    return early_used <= sizeof early ? block : NULL;
}

static bool is_early(const void *block)
{
    uintptr_t at = (uintptr_t)block - (uintptr_t)early;
    return at < sizeof early;
}

void *malloc(size_t size)
{
    return pool ? mempool_malloc(pool, size ? size : 1) : early_alloc(size);
}

void *calloc(size_t count, size_t size)
{
    if (pool)
        return mempool_calloc(pool, count ? count : 1, size ? size : 1);
    return early_alloc(count * size); /* static memory: zero */
}

void *realloc(void *block, size_t size)
{
    if (pool && !is_early(block))
        return mempool_realloc(pool, block, size ? size : 1);
    size_t room = (size_t)(early + sizeof early - (unsigned char *)block);
    void *moved = malloc(size);
    if (moved && block)
        memcpy(moved, block, size < room ? size : room);
    return moved;
}

void free(void *block)
{
    if (pool && !is_early(block))
        OK(mempool_free(pool, block));
}

static void *work(void *context)
{
    uint64_t rng = rng_seed((uintptr_t)context);
    for (unsigned i = 0; i < 2000; i++) {
        size_t size = 16 + rng_below(&rng, 3000);
        unsigned char *block = malloc(size);
        CHECK(block != NULL);
        stamp(block, size, i);
        CHECK(is_stamped(block, size, i));
        char *text = strdup("from the C library");
        CHECK(text != NULL && strcmp(text, "from the C library") == 0);
        free(text);
        free(block);
    }
    return NULL;
}

int main(void)
{
    size_t len = 64 * MIB;
    void *buffer = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(buffer != MAP_FAILED);
    mempool_t *made;
    OK(mempool_init(buffer, len, NULL, &made));
    pool = made;

    enum { THREADS = 8 };
    for (unsigned round = 0; round < 5; round++) {
        pthread_t threads[THREADS];
        for (uintptr_t i = 0; i < THREADS; i++)
            CHECK(pthread_create(&threads[i], NULL, work, (void *)(i + 1)) == 0);
        for (unsigned i = 0; i < THREADS; i++)
            CHECK(pthread_join(threads[i], NULL) == 0);
    }
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        work(NULL);
        _exit(mempool_check(pool) != MEMPOOL_OK);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    OK(mempool_check(pool));
    mempool_stats_t s = stats_of(pool);
    CHECK(s.rejected_frees == 0 && s.failed_allocs == 0);
    puts("ok");
    return 0;
}
