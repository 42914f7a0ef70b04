/* Threads that are cancelled, and detach from nothing. No call is a cancellation point, so a call that a thread had begun
 * ends well; between calls it ends like any other thread, and what it had cached and held is there for others. */
#include "churn.h"

#include <pthread.h>

enum { THREADS = 4, OWN = 48, EXCHANGE = 16, CANCELLED_AT_LEAST = 100 };

#define POOL_LEN (512 * KIB)

static slot_t own[THREADS][OWN];
static slot_t exchange[EXCHANGE];
static unsigned char *buffer;
static mempool_t *pool;

/* Cancelled before its first call, which asks the kernel about the thread. */
static void *doomed_before(void *context)
{
    bool *has_called = context;
    CHECK(pthread_cancel(pthread_self()) == 0);
    void *block = mempool_malloc(pool, 100);
    CHECK(block != NULL);
    OK(mempool_free(pool, block));
    /* everything there is: the dead are looked for, the kernel is asked about them */
    OK(mempool_trim(pool));
    OK(mempool_recover(pool, NULL));
    OK(mempool_check(pool));
    mempool_t *another = NULL;
    bool created;
    OK(mempool_open(buffer, POOL_LEN, NULL, &another, &created));
    block = mempool_malloc(another, 100);
    CHECK(block != NULL);
    OK(mempool_free(another, block));
    OK(mempool_detach(another));
    CHECK(mempool_init(buffer, 10, NULL, &another) != MEMPOOL_OK);
    static unsigned char own_buffer[300 * KIB];
    OK(mempool_init(own_buffer, sizeof own_buffer, NULL, &another));
    OK(mempool_release(another));
    OK(mempool_detach(another));
    *has_called = true;
    pthread_testcancel();
    CHECK(!"it was cancelled");
    return NULL;
}

static void test_calls_are_no_cancellation_points(void)
{
    for (int i = 0; i < 10; i++) {
        bool has_called = false;
        pthread_t thread;
        void *result = NULL;
        CHECK(pthread_create(&thread, NULL, doomed_before, &has_called) == 0);
        CHECK(pthread_join(thread, &result) == 0);
        CHECK(has_called);
        CHECK(result == PTHREAD_CANCELED);
    }
}

struct side {
    unsigned number;
    uint64_t stream;
    atomic_uint started;
};

static void *work(void *context)
{
    struct side *side = context;
    struct churn churn = {
        .pool = side->number % 2 ? pool : attach(buffer, POOL_LEN),
        .own = own[side->number],
        .own_count = OWN,
        .exchange = exchange,
        .exchange_count = EXCHANGE,
        .largest_log2 = 12,
        .random = rng_seed(side->stream),
    };
    atomic_store(&side->started, 1);
    for (;;) {
        churn_step(&churn);
        pthread_testcancel();
    }
    return NULL;
}

static unsigned test_cancelled_threads_leave_all_to_others(uint64_t deadline_ns)
{
    struct side sides[THREADS];
    pthread_t threads[THREADS];
    uint64_t random = rng_seed(77);
    unsigned cancelled = 0;
    for (unsigned t = 0; t < THREADS; t++) {
        sides[t] = (struct side){t, t, 0};
        CHECK(pthread_create(&threads[t], NULL, work, &sides[t]) == 0);
    }
    while (cancelled < CANCELLED_AT_LEAST || now_ns() < deadline_ns) {
        unsigned t = rng_below(&random, THREADS);
        struct timespec pause = {.tv_nsec = (long)rng_below(&random, 1000000)};
        nanosleep(&pause, NULL);
        wait_for(&sides[t].started, 1);
        void *result = NULL;
        CHECK(pthread_cancel(threads[t]) == 0);
        CHECK(pthread_join(threads[t], &result) == 0);
        CHECK(result == PTHREAD_CANCELED);
        cancelled++;
        OK(mempool_check(pool));
        drain(pool, own[t], OWN / 2); /* its successor has the rest */
        sides[t] = (struct side){t, THREADS + cancelled, 0};
        CHECK(pthread_create(&threads[t], NULL, work, &sides[t]) == 0);
    }
    for (unsigned t = 0; t < THREADS; t++) {
        CHECK(pthread_cancel(threads[t]) == 0);
        CHECK(pthread_join(threads[t], NULL) == 0);
        drain(pool, own[t], OWN);
    }
    drain(pool, exchange, EXCHANGE);
    return cancelled;
}

int main(void)
{
    buffer = map_shared(POOL_LEN);
    pool = new_pool(buffer, POOL_LEN, NULL);
    mempool_stats_t fresh = check_quiet(pool);
    test_calls_are_no_cancellation_points();
    unsigned cancelled = test_cancelled_threads_leave_all_to_others(now_ns() + run_ns());
    check_whole(pool, &fresh);
    mempool_stats_t s = stats_of(pool);
    CHECK(s.rejected_frees == 0);
    CHECK(s.recoveries == 0); /* all of them ended in order */
    OK(mempool_detach(pool));
    printf("%u threads cancelled\n", cancelled);
    return PASSED();
}
