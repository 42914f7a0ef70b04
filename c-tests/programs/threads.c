/* Many threads on one pool, over every kind of pool: random calls, stamped blocks verified before each free and each
 * realloc, blocks handed from thread to thread, and a main thread that checks, walks and polls all the while. */
#include "churn.h"

#include <pthread.h>

enum { THREADS = 8, OWN = 48, EXCHANGE = 32 };

struct kind {
    const char *name;
    size_t len;
    unsigned largest_log2;
    mempool_options_t options;
};

#define OPTIONS(...) {.struct_size = sizeof(mempool_options_t), __VA_ARGS__}

static const struct kind kinds[] = {
    {"default", 1 * MIB, 14, MEMPOOL_OPTIONS_INIT},
    {"crowded", 16 * KIB, 11, MEMPOOL_OPTIONS_INIT},
    {"align 8", 256 * KIB, 12, OPTIONS(.align = 8)},
    {"align 256, min_split 1000", 1 * MIB, 12, OPTIONS(.align = 256, .min_split = 1000)},
    {"align 4096", 2 * MIB, 14, OPTIONS(.align = 4096)},
    {"no split", 512 * KIB, 12, OPTIONS(.flags = MEMPOOL_NO_SPLIT)},
    {"no compact", 1 * MIB, 12, OPTIONS(.flags = MEMPOOL_NO_COMPACT)},
    {"no thread caches", 512 * KIB, 13, OPTIONS(.flags = MEMPOOL_NO_THREAD_CACHES)},
};

static unsigned char memory[2 * MIB + 5];

static slot_t own[THREADS][OWN];
static slot_t exchange[EXCHANGE];

struct worker {
    struct churn churn;
    uint64_t deadline_ns;
    pthread_t thread;
};

static void *work(void *context)
{
    struct worker *worker = context;
    churn_until(&worker->churn, worker->deadline_ns);
    return NULL;
}

/* What can be asked of a pool while others are inside calls. */
static void observe(mempool_t *pool, uint64_t deadline_ns)
{
    while (now_ns() < deadline_ns) {
        OK(mempool_check(pool));
        mempool_stats_t s = stats_of(pool);
        CHECK(s.used_size <= s.total && s.overhead <= s.total && s.top <= s.total);
        struct tally tally = {.end = 0};
        OK(mempool_walk(pool, tally_visit, &tally));
        sched_yield();
    }
}

static void run(const struct kind *kind, uint64_t ns)
{
    unsigned char *buffer = memory + 5; /* nothing rests on the buffer's own alignment */
    mempool_t *pool = new_pool(buffer, kind->len, &kind->options);
    mempool_stats_t fresh = check_quiet(pool);

    struct worker workers[THREADS];
    uint64_t deadline_ns = now_ns() + ns;
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i].deadline_ns = deadline_ns;
        workers[i].churn = (struct churn){
            .pool = i % 2 ? pool : attach(buffer, kind->len), /* shared handles and handles of one's own */
            .own = own[i],
            .own_count = OWN,
            .exchange = exchange,
            .exchange_count = EXCHANGE,
            .largest_log2 = kind->largest_log2,
            .random = rng_seed(i),
        };
        CHECK(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0);
    }
    observe(pool, deadline_ns);

    uint64_t steps = 0, no_room = 0;
    for (unsigned i = 0; i < THREADS; i++) {
        CHECK(pthread_join(workers[i].thread, NULL) == 0);
        steps += workers[i].churn.steps;
        no_room += workers[i].churn.no_room;
    }
    mempool_stats_t s = check_quiet(pool);
    CHECK(s.failed_allocs >= no_room && s.rejected_frees == 0 && s.recoveries == 0);

    uint64_t held = drain(pool, exchange, EXCHANGE);
    for (unsigned i = 0; i < THREADS; i++) {
        held += drain(pool, own[i], OWN);
    }
    CHECK(held == s.used_count); /* nothing was lost, nothing was made up */
    if (kind->options.flags & MEMPOOL_NO_COMPACT) {
        CHECK(check_quiet(pool).used_count == 0); /* the pieces stay apart until all are given up at once */
        OK(mempool_free_all(pool));
    }
    check_whole(pool, &fresh);
    for (unsigned i = 0; i < THREADS; i += 2) {
        OK(mempool_detach(workers[i].churn.pool));
    }
    OK(mempool_release(pool));
    OK(mempool_detach(pool));
    printf("%s: %llu steps, %llu found no room\n", kind->name, (unsigned long long)steps, (unsigned long long)no_room);
}

int main(void)
{
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        run(&kinds[i], run_ns() / COUNT_OF(kinds));
    }
    return PASSED();
}
