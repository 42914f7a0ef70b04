/* First use of fresh shared memory by many at once: exactly one formats it, all end up in one pool; and a process that
 * is killed while it formats is taken over, by those who wait for it as well as by those who come later. */
#include "test.h"

#include <pthread.h>

enum { PROCESSES = 3, THREADS = 2, RACERS = PROCESSES * THREADS };

#define POOL_LEN (64 * KIB)

struct board {
    atomic_uint ready, begin;
    atomic_uint entered, left; /* the victim: is about to call, has returned */
    struct racer {
        bool created;
        uint64_t pool_id, offset;
    } racers[RACERS];
};

static struct board *board;
static unsigned char *buffer;
static size_t buffer_len;

/* Opens the pool, allocates in it, writes down what it saw. */
static void open_as(unsigned number)
{
    struct racer *racer = &board->racers[number];
    mempool_t *pool = NULL;
    OK(mempool_open(buffer, buffer_len, NULL, &pool, &racer->created));
    racer->pool_id = stats_of(pool).pool_id;
    void *block = mempool_malloc(pool, 100);
    CHECK(block != NULL);
    stamp(block, 100, number);
    racer->offset = mempool_offset(pool, block);
}

static void *race(void *context)
{
    atomic_fetch_add(&board->ready, 1);
    wait_for(&board->begin, 1);
    open_as((unsigned)(uintptr_t)context);
    return NULL;
}

/* PROCESSES x THREADS racers behind the line; returns with the processes started, not yet ready. */
static void start_racers(pid_t *processes)
{
    for (unsigned p = 0; p < PROCESSES; p++) {
        processes[p] = fork_process();
        if (processes[p] == 0) {
            pthread_t threads[THREADS];
            for (unsigned t = 0; t < THREADS; t++) {
                CHECK(pthread_create(&threads[t], NULL, race, (void *)(uintptr_t)(p * THREADS + t)) == 0);
            }
            for (unsigned t = 0; t < THREADS; t++) {
                CHECK(pthread_join(threads[t], NULL) == 0);
            }
            _exit(0);
        }
    }
}

/* Waits for the racers and checks what they found. Returns how many of them created the pool. */
static unsigned finish(const pid_t *processes)
{
    for (unsigned p = 0; p < PROCESSES; p++) {
        wait_ok(processes[p]);
    }
    mempool_t *pool = attach(buffer, buffer_len);
    mempool_stats_t s = check_quiet(pool);
    CHECK(s.used_count == RACERS);
    unsigned created = 0;
    for (unsigned i = 0; i < RACERS; i++) {
        const struct racer *racer = &board->racers[i];
        created += racer->created;
        CHECK(racer->pool_id == s.pool_id);
        void *block = mempool_pointer(pool, racer->offset);
        CHECK(is_stamped(block, 100, i));
        OK(mempool_free(pool, block));
    }
    CHECK(check_quiet(pool).used_count == 0);
    OK(mempool_detach(pool));
    return created;
}

static void new_round(size_t len)
{
    memset(board, 0, sizeof *board);
    buffer_len = len;
    buffer = map_shared(len);
}

static void end_round(void)
{
    CHECK(munmap(buffer, buffer_len) == 0);
}

static unsigned test_race(uint64_t deadline_ns)
{
    unsigned rounds = 0;
    for (; rounds < 20 || now_ns() < deadline_ns; rounds++) {
        new_round(POOL_LEN);
        pid_t processes[PROCESSES];
        start_racers(processes);
        wait_for(&board->ready, RACERS);
        atomic_store(&board->begin, 1);
        CHECK(finish(processes) == 1);
        end_round();
    }
    return rounds;
}

static void spin(unsigned times)
{
    for (volatile unsigned i = 0; i < times; i++) {
    }
}

/* A victim is killed at a random moment around its open; racers wait for it, or come later. */
static unsigned test_kill(uint64_t deadline_ns, unsigned *inside)
{
    uint64_t random = rng_seed(1);
    unsigned rounds = 0;
    for (; rounds < 40 || now_ns() < deadline_ns || *inside == 0; rounds++) {
        new_round(POOL_LEN);
        unsigned delay = rng_below(&random, 6000);
        pid_t victim = fork_process();
        if (victim == 0) {
            mempool_t *pool = NULL;
            bool created = false;
            atomic_store(&board->ready, 1);
            while (atomic_load(&board->begin) == 0) {
            }
            spin(delay);
            atomic_store(&board->entered, 1);
            mempool_status_t status = mempool_open(buffer, buffer_len, NULL, &pool, &created);
            atomic_store(&board->left, 1 + (unsigned)created);
            CHECK(status == MEMPOOL_OK);
            for (;;) {
                pause();
            }
        }
        wait_for(&board->ready, 1);
        pid_t processes[PROCESSES];
        bool waiting = rounds % 4 == 0;
        if (waiting) {
            start_racers(processes);
            wait_for(&board->ready, 1 + RACERS);
        }
        atomic_store(&board->begin, 1);
        CHECK(kill(victim, SIGKILL) == 0);
        if (!waiting) {
            start_racers(processes); /* nobody has reaped the victim yet */
        }
        unsigned created = finish(processes);
        wait_killed(victim);
        unsigned left = atomic_load(&board->left);
        *inside += left == 0 && atomic_load(&board->entered) == 1;
        CHECK(left == 0 ? created <= 1 : created + (left == 2) == 1);
        end_round();
    }
    return rounds;
}

static void stuck(int signal)
{
    (void)signal;
    atomic_store(&board->left, 1);
    for (;;) {
        pause();
    }
}

/* A victim that certainly is in the middle of formatting: the header lies across a page's end, the second page faults,
 * and there it stays, alive, until it is killed, while others wait for it or have not come yet. */
static void test_stuck(bool others_wait)
{
    new_round(POOL_LEN);
    buffer += 4096 - 88; /* magic, what is written once, and the lock | counters, heap, bins */
    buffer_len -= 4096;
    pid_t victim = fork_process();
    if (victim == 0) {
        CHECK(mprotect(buffer + 88, 4096, PROT_NONE) == 0);
        CHECK(signal(SIGSEGV, stuck) != SIG_ERR);
        mempool_t *pool = NULL;
        bool created = false;
        mempool_open(buffer, buffer_len, NULL, &pool, &created);
        CHECK(!"formatting wrote nothing to the second page: this test needs another place to stop it");
    }
    wait_for(&board->left, 1);
    mempool_t *pool = NULL;
    REFUSED(MEMPOOL_ERR_NOT_A_POOL, "", mempool_attach(buffer, buffer_len, NULL, &pool));
    CHECK(pool == NULL);

    pid_t processes[PROCESSES];
    start_racers(processes);
    wait_for(&board->ready, RACERS);
    if (others_wait) {
        atomic_store(&board->begin, 1);
        struct timespec a_while = {.tv_nsec = 20000000};
        nanosleep(&a_while, NULL);
    }
    CHECK(kill(victim, SIGKILL) == 0);
    atomic_store(&board->begin, 1);
    CHECK(finish(processes) == 1);
    wait_killed(victim);
    buffer -= 4096 - 88;
    buffer_len += 4096;
    end_round();
}

/* What is neither zero nor a pool is nobody's to format. */
static void test_garbage(void)
{
    new_round(POOL_LEN);
    memset(buffer, 0x77, POOL_LEN);
    mempool_t *pool = NULL;
    bool created = true;
    REFUSED(MEMPOOL_ERR_NOT_A_POOL, "", mempool_open(buffer, POOL_LEN, NULL, &pool, &created));
    CHECK(pool == NULL && !created);
    CHECK(is_filled(buffer, POOL_LEN, 0x77));
    end_round();
}

int main(void)
{
    board = map_shared(sizeof *board);
    test_garbage();
    test_stuck(false);
    test_stuck(true);
    unsigned inside = 0;
    unsigned races = test_race(now_ns() + run_ns() / 2);
    unsigned kills = test_kill(now_ns() + run_ns() / 2, &inside);
    printf("%u races, %u formatters killed, %u of them inside the call\n", races, kills, inside);
    return PASSED();
}
