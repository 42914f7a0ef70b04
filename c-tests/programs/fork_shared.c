/* Processes that share a pool by fork over MAP_SHARED memory, while a thread of the parent is inside calls: inherited
 * handles and handles of their own, blocks handed across by offset, and what is left behind read by the parent. */
#include "churn.h"

#include <pthread.h>

enum { PROCESSES = 4, WORKERS = PROCESSES + 1, OWN = 64, EXCHANGE = 32, ROUNDS = 4 };

#define POOL_LEN (1 * MIB)

struct board {
    slot_t own[WORKERS][OWN]; /* the last: of the parent's thread */
    slot_t exchange[EXCHANGE];
    _Atomic(uint64_t) steps;
};

static struct board *board;
static unsigned char *buffer;

static struct churn churn_of(mempool_t *pool, unsigned worker, uint64_t stream)
{
    return (struct churn){
        .pool = pool,
        .own = board->own[worker],
        .own_count = OWN,
        .exchange = board->exchange,
        .exchange_count = EXCHANGE,
        .largest_log2 = 13,
        .random = rng_seed(stream),
    };
}

static void child(mempool_t *inherited, unsigned worker, unsigned round, uint64_t deadline_ns)
{
    mempool_t *pool = worker % 2 ? inherited : attach(buffer, POOL_LEN);
    struct churn churn = churn_of(pool, worker, round * WORKERS + worker);
    churn_until(&churn, deadline_ns);
    atomic_fetch_add(&board->steps, churn.steps);
    if (worker == 2) {
        OK(mempool_detach(pool)); /* some say goodbye, the others just end */
    }
    _exit(0);
}

struct thread_work {
    struct churn churn;
    uint64_t deadline_ns;
};

static void *thread_of_parent(void *context)
{
    struct thread_work *work = context;
    churn_until(&work->churn, work->deadline_ns);
    return NULL;
}

int main(void)
{
    buffer = map_shared(POOL_LEN);
    board = map_shared(sizeof *board);
    mempool_t *pool = new_pool(buffer, POOL_LEN, NULL);
    mempool_stats_t fresh = check_quiet(pool);

    uint64_t begin_ns = now_ns(), end_ns = begin_ns + run_ns();
    struct thread_work work = {churn_of(pool, PROCESSES, 1000), end_ns};
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, thread_of_parent, &work) == 0);

    for (unsigned round = 0; round < ROUNDS; round++) {
        uint64_t deadline_ns = begin_ns + run_ns() / ROUNDS * (round + 1);
        pid_t children[PROCESSES];
        for (unsigned i = 0; i < PROCESSES; i++) {
            children[i] = fork_process();
            if (children[i] == 0) {
                child(pool, i, round, deadline_ns);
            }
        }
        while (now_ns() < deadline_ns) {
            OK(mempool_check(pool));
            sched_yield();
        }
        for (unsigned i = 0; i < PROCESSES; i++) {
            wait_ok(children[i]);
            drain(pool, board->own[i], OWN / 2); /* what a process of the past left; the other half goes to the next */
        }
    }
    CHECK(pthread_join(thread, NULL) == 0);

    mempool_stats_t s = check_quiet(pool);
    CHECK(s.rejected_frees == 0 && s.recoveries == 0);
    uint64_t held = drain(pool, board->exchange, EXCHANGE);
    for (unsigned i = 0; i < WORKERS; i++) {
        held += drain(pool, board->own[i], OWN);
    }
    CHECK(held == s.used_count);
    check_whole(pool, &fresh);
    OK(mempool_detach(pool));
    printf("%llu steps of processes, %llu of a thread\n", (unsigned long long)atomic_load(&board->steps),
           (unsigned long long)work.churn.steps);
    return PASSED();
}
