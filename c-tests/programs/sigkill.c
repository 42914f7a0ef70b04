/* Processes that churn a shared pool are killed at random moments and replaced; the others go on. Every block that was
 * in a slot, of the living or of the dead, must be there with its stamp; at most the one block that a killed thread
 * had in no slot is left over, and a walk finds it. In the end the pool is whole. */
#include "churn.h"

#include <pthread.h>

enum { PROCESSES = 3, THREADS = 2, OWN = 32, EXCHANGE = 32, KILLS_AT_LEAST = 40 };

#define POOL_LEN (512 * KIB)

struct board {
    slot_t own[PROCESSES][THREADS][OWN];
    slot_t exchange[EXCHANGE];
    _Atomic(uint64_t) steps[PROCESSES][THREADS];
    atomic_bool stop;
};

static struct board *board;
static unsigned char *buffer;
static mempool_t *pool; /* inherited by every worker */

struct side {
    unsigned process, thread;
    uint64_t stream;
};

static void *work(void *context)
{
    const struct side *side = context;
    struct churn churn = {
        .pool = side->thread == 0 ? pool : attach(buffer, POOL_LEN),
        .own = board->own[side->process][side->thread],
        .own_count = OWN,
        .exchange = board->exchange,
        .exchange_count = EXCHANGE,
        .largest_log2 = 12,
        .random = rng_seed(side->stream),
    };
    while (!atomic_load(&board->stop)) {
        churn_step(&churn);
        atomic_fetch_add(&board->steps[side->process][side->thread], 1);
    }
    return NULL;
}

static pid_t start(unsigned process, unsigned generation)
{
    pid_t child = fork_process();
    if (child != 0) {
        return child;
    }
    struct side sides[THREADS];
    pthread_t threads[THREADS];
    for (unsigned t = 0; t < THREADS; t++) {
        sides[t] = (struct side){process, t, (uint64_t)generation * PROCESSES * THREADS + process * THREADS + t};
        CHECK(pthread_create(&threads[t], NULL, work, &sides[t]) == 0);
    }
    for (unsigned t = 0; t < THREADS; t++) {
        CHECK(pthread_join(threads[t], NULL) == 0);
    }
    _exit(0);
}

/* Returns once every worker got ahead: nobody hangs on what a dead one left. */
static void see_progress(void)
{
    uint64_t deadline_ns = now_ns() + 10000000000u;
    for (unsigned p = 0; p < PROCESSES; p++) {
        for (unsigned t = 0; t < THREADS; t++) {
            uint64_t before = atomic_load(&board->steps[p][t]);
            while (atomic_load(&board->steps[p][t]) == before) {
                CHECK(now_ns() < deadline_ns);
                sched_yield();
            }
        }
    }
}

int main(void)
{
    buffer = map_shared(POOL_LEN);
    board = map_shared(sizeof *board);
    pool = new_pool(buffer, POOL_LEN, NULL);
    mempool_stats_t fresh = check_quiet(pool);

    pid_t workers[PROCESSES];
    unsigned kills = 0;
    for (unsigned p = 0; p < PROCESSES; p++) {
        workers[p] = start(p, 0);
    }
    uint64_t random = rng_seed(UINT32_MAX);
    uint64_t deadline_ns = now_ns() + run_ns();
    /* and until one was killed with the lock in its hands, or nothing would have been tested */
    while (kills < KILLS_AT_LEAST || now_ns() < deadline_ns || stats_of(pool).recoveries == 0) {
        struct timespec pause = {.tv_nsec = (long)rng_below(&random, 1000000)};
        nanosleep(&pause, NULL);
        unsigned p = rng_below(&random, PROCESSES);
        CHECK(kill(workers[p], SIGKILL) == 0);
        kills++;
        if (rng_below(&random, 2) == 0) {
            OK(mempool_check(pool)); /* while it dies */
        }
        wait_killed(workers[p]); /* nobody else may have ended: a worker that fails a check exits */
        for (unsigned t = 0; t < THREADS; t++) {
            drain(pool, board->own[p][t], OWN / 2); /* its successor inherits the rest */
        }
        workers[p] = start(p, kills);
        if (kills % 16 == 0) {
            see_progress();
        }
    }
    see_progress();
    atomic_store(&board->stop, true);
    for (unsigned p = 0; p < PROCESSES; p++) {
        wait_ok(workers[p]);
    }

    uint64_t steps = 0, held = drain(pool, board->exchange, EXCHANGE);
    for (unsigned p = 0; p < PROCESSES; p++) {
        for (unsigned t = 0; t < THREADS; t++) {
            held += drain(pool, board->own[p][t], OWN);
            steps += atomic_load(&board->steps[p][t]);
        }
    }
    uint64_t left_over = free_by_walk(pool);
    CHECK(left_over <= kills * THREADS);
    check_whole(pool, &fresh);
    mempool_stats_t s = stats_of(pool);
    CHECK(s.rejected_frees == 0);
    printf("%u kills in %llu steps: %llu recoveries, %llu blocks held at the end, %llu left over by the dead\n", kills,
           (unsigned long long)steps, (unsigned long long)s.recoveries, (unsigned long long)held,
           (unsigned long long)left_over);
    return PASSED();
}
