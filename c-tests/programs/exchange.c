/* Blocks that go from thread to thread through the pool alone: each thread takes more than its cache holds, writes all
 * of it, and frees all of it. What one has freed another gets, with no other word between the two. Under a thread
 * sanitizer (make tsan) this shows that the pool's own hand-over is enough. */
#include "test.h"

#include <pthread.h>

enum { THREADS = 6, BLOCKS = 400, SIZES = 6 };

/* The last go by the shelves, and fewer of them at once: there must be room for all. */
static const size_t sizes[SIZES] = {16, 64, 200, 1000, 5000, 100000};

static mempool_t *pool;
static uint64_t deadline_ns;

static void *work(void *context)
{
    unsigned self = (unsigned)(uintptr_t)context;
    uint64_t rng = rng_seed(self);
    static _Thread_local unsigned char *blocks[BLOCKS];
    unsigned round = 0;
    do {
        size_t size = sizes[rng_below(&rng, SIZES)];
        unsigned count = 1 + rng_below(&rng, size > 5000 ? BLOCKS / 25 : BLOCKS);
        unsigned mark = self << 16 | round++ % 65536;
        for (unsigned i = 0; i < count; i++) {
            blocks[i] = mempool_malloc(pool, size);
            CHECK(blocks[i] != NULL);
            stamp(blocks[i], size, mark + i);
        }
        for (unsigned i = 0; i < count; i++) {
            CHECK(is_stamped(blocks[i], size, mark + i));
            OK(mempool_free(pool, blocks[i]));
        }
    } while (now_ns() < deadline_ns);
    return NULL;
}

int main(void)
{
    size_t len = 64 * MIB;
    void *buffer = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(buffer != MAP_FAILED);
    OK(mempool_init(buffer, len, NULL, &pool));
    deadline_ns = now_ns() + run_ns();

    pthread_t threads[THREADS];
    for (unsigned i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, work, (void *)(uintptr_t)(i + 1)) == 0);
    for (unsigned i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);

    mempool_stats_t s = stats_of(pool);
    CHECK(s.used_count == 0 && s.cached_count > 0);
    CHECK(s.cached_size <= s.total / 8);
    OK(mempool_trim(pool));
    s = stats_of(pool);
    CHECK(s.cached_count == 0 && s.free_count == 0 && s.thread_caches <= 1);
    OK(mempool_check(pool));
    OK(mempool_detach(pool));
    puts("ok");
    return 0;
}
