/* A pool in private memory, across fork: each child has a copy of its own. The parent's threads are inside calls when
 * it forks, again and again; in the child they do not exist. No child may hang, and each must find its copy sound,
 * every block that was in somebody's hands stamped, and be able to free it all. */
#include "churn.h"

#include <pthread.h>

enum { THREADS = 4, OWN = 48, EXCHANGE = 16, FORKS_AT_LEAST = 50 };

#define POOL_LEN (256 * KIB)

static slot_t own[THREADS][OWN];
static slot_t exchange[EXCHANGE];
static atomic_bool stop;

static void *work(void *context)
{
    struct churn *churn = context;
    do {
        churn_step(churn);
    } while (!atomic_load(&stop));
    return NULL;
}

/* The only thread of its process. */
static void child(mempool_t *pool, const mempool_stats_t *fresh, unsigned number)
{
    OK(mempool_recover(pool, NULL)); /* what the threads were at, which are not here, ends now: it is quiet */
    mempool_stats_t s = check_quiet(pool);
    for (unsigned i = 0; i < THREADS; i++) {
        for (unsigned j = 0; j < OWN; j++) {
            uint64_t piece = atomic_load(&own[i][j]);
            if (piece != 0) {
                piece_verify(pool, piece);
            }
        }
    }
    struct churn churn = {.pool = pool,
                          .own = own[number % THREADS],
                          .own_count = OWN,
                          .exchange = exchange,
                          .exchange_count = EXCHANGE,
                          .largest_log2 = 12,
                          .random = rng_seed(1000 + number)};
    for (int i = 0; i < 200; i++) {
        churn_step(&churn);
    }
    if (number % 16 == 0) { /* a child's child is no different */
        pid_t grandchild = fork_process();
        if (grandchild == 0) {
            child(pool, fresh, number + 1);
            _exit(0);
        }
        wait_ok(grandchild);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        drain(pool, own[i], OWN);
    }
    drain(pool, exchange, EXCHANGE);
    CHECK(free_by_walk(pool) <= THREADS); /* those in no slot at the fork: one for each thread at most */
    check_whole(pool, fresh);
    CHECK(stats_of(pool).rejected_frees == s.rejected_frees);
}

/* Returns how many children there were. */
static unsigned run(unsigned char *buffer, uint64_t ns)
{
    mempool_t *pool = new_pool(buffer, POOL_LEN, NULL);
    mempool_stats_t fresh = check_quiet(pool);

    struct churn churns[THREADS];
    pthread_t threads[THREADS];
    atomic_store(&stop, false);
    for (unsigned i = 0; i < THREADS; i++) {
        churns[i] = (struct churn){.pool = i % 2 ? pool : attach(buffer, POOL_LEN),
                                   .own = own[i],
                                   .own_count = OWN,
                                   .exchange = exchange,
                                   .exchange_count = EXCHANGE,
                                   .largest_log2 = 12,
                                   .random = rng_seed(i)};
        CHECK(pthread_create(&threads[i], NULL, work, &churns[i]) == 0);
    }

    unsigned forks = 0;
    uint64_t deadline_ns = now_ns() + ns;
    while (forks < FORKS_AT_LEAST || now_ns() < deadline_ns) {
        pid_t process = fork_process();
        if (process == 0) {
            child(pool, &fresh, forks);
            _exit(0);
        }
        wait_ok(process);
        forks++;
    }

    atomic_store(&stop, true);
    for (unsigned i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    mempool_stats_t s = check_quiet(pool);
    CHECK(s.rejected_frees == 0 && s.recoveries == 0);
    uint64_t held = drain(pool, exchange, EXCHANGE);
    for (unsigned i = 0; i < THREADS; i++) {
        held += drain(pool, own[i], OWN);
    }
    CHECK(held == s.used_count); /* no child's work was seen here */
    check_whole(pool, &fresh);
    for (unsigned i = 0; i < THREADS; i += 2) {
        OK(mempool_detach(churns[i].pool));
    }
    OK(mempool_detach(pool));
    return forks;
}

int main(void)
{
    static unsigned char array[POOL_LEN + 3];
    printf("static array: %u forks\n", run(array + 3, run_ns() / 2));

    void *memory = mmap(NULL, POOL_LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    printf("private mapping: %u forks\n", run(memory, run_ns() / 2));
    return PASSED();
}
