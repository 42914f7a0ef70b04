/* A named shared memory object, mapped at a different address by every process, none of which inherits anything, and
 * twice by each of them: both mappings are used at once, and blocks cross between all of them by offset. */
#include "churn.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>

enum { PROCESSES = 3, MAPPINGS = 2 * PROCESSES + 2, OWN = 48, EXCHANGE = 32 };

/* The object: the board, then the pool from an odd place on, to which no mapping is aligned. */
struct board {
    slot_t own[MAPPINGS][OWN];
    slot_t exchange[EXCHANGE];
    _Atomic(uint64_t) address[MAPPINGS], steps;
    atomic_uint attached;
    uint64_t deadline_ns;
};

#define POOL_AT (64 * KIB + 40)
#define POOL_LEN (1 * MIB)
#define SHM_LEN (2 * MIB)

/* Maps the object where no other mapping of this test lies. */
static struct board *map_at(int fd, unsigned mapping)
{
    void *wanted = (void *)(0x200000000000u + mapping * 0x100000000u + mapping * 0x5000u);
    void *got = mmap(wanted, SHM_LEN, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
    CHECK(got == wanted);
    struct board *board = got;
    atomic_store(&board->address[mapping], (uint64_t)(uintptr_t)got);
    return board;
}

static mempool_t *attach_to(struct board *board)
{
    return attach((unsigned char *)board + POOL_AT, POOL_LEN);
}

struct side {
    struct churn churn;
    uint64_t deadline_ns;
    pthread_t thread;
};

static void *work(void *context)
{
    struct side *side = context;
    churn_until(&side->churn, side->deadline_ns);
    return NULL;
}

/* A process of its own, started by exec: all it knows is a name and a number. */
static int worker(const char *name, unsigned index)
{
    int fd = shm_open(name, O_RDWR, 0);
    CHECK(fd >= 0);
    struct board *boards[2] = {map_at(fd, 2 * index), map_at(fd, 2 * index + 1)};
    CHECK(close(fd) == 0);

    struct side sides[2];
    for (unsigned i = 0; i < 2; i++) {
        sides[i].churn = (struct churn){
            .pool = attach_to(boards[i]),
            .own = boards[i]->own[2 * index + i],
            .own_count = OWN,
            .exchange = boards[i]->exchange,
            .exchange_count = EXCHANGE,
            .largest_log2 = 13,
            .random = rng_seed(2 * index + i),
        };
    }
    atomic_fetch_add(&boards[0]->attached, 1);
    wait_for(&boards[1]->attached, PROCESSES + 1);

    for (unsigned i = 0; i < 2; i++) {
        sides[i].deadline_ns = boards[i]->deadline_ns;
        CHECK(pthread_create(&sides[i].thread, NULL, work, &sides[i]) == 0);
    }
    for (unsigned i = 0; i < 2; i++) {
        CHECK(pthread_join(sides[i].thread, NULL) == 0);
        atomic_fetch_add(&boards[i]->steps, sides[i].churn.steps);
    }

    mempool_t *one = sides[0].churn.pool, *other = sides[1].churn.pool;
    OK(mempool_detach(other));
    CHECK(munmap(boards[1], SHM_LEN) == 0);
    OK(mempool_check(one)); /* the first mapping does not miss the second */
    OK(mempool_detach(one));
    return 0;
}

/* One thread, two mappings: a block is one block, whichever way it is reached. */
static void test_twins(mempool_t *one, mempool_t *other)
{
    unsigned char *block = mempool_malloc(one, 100);
    CHECK(block != NULL);
    stamp(block, 100, 7);
    unsigned char *twin = mempool_pointer(other, mempool_offset(one, block));
    CHECK(twin != block && is_stamped(twin, 100, 7));
    CHECK(mempool_usable_size(other, twin) == mempool_usable_size(one, block));
    REFUSED(MEMPOOL_ERR_FOREIGN_POINTER, "", mempool_free(other, block)); /* not an address of that mapping */
    CHECK(stats_of(one).used_count == 1 && stats_of(other).used_count == 1);

    unsigned char *grown = mempool_realloc(other, twin, 5000);
    CHECK(grown != NULL && is_stamped(mempool_pointer(one, mempool_offset(other, grown)), 100, 7));
    block = mempool_pointer(one, mempool_offset(other, grown));
    OK(mempool_free(one, block));
    REFUSED(MEMPOOL_ERR_NOT_ALLOCATED, "", mempool_free(other, grown)); /* a double free across mappings */
    CHECK(stats_of(one).pool_id == stats_of(other).pool_id && stats_of(other).rejected_frees == 2);
}

static void start_worker(char *program, char *name, unsigned index, pid_t *out)
{
    *out = fork_process();
    if (*out == 0) {
        char number[8];
        snprintf(number, sizeof number, "%u", index);
        execl("/proc/self/exe", program, name, number, (char *)NULL);
        CHECK(!"exec failed");
    }
}

int main(int argc, char **argv)
{
    if (argc == 3) {
        return worker(argv[1], (unsigned)strtoul(argv[2], NULL, 10));
    }
    char name[64];
    snprintf(name, sizeof name, "/mempool-test-%ld", (long)getpid());
    int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK(fd >= 0);
    CHECK(ftruncate(fd, (off_t)SHM_LEN) == 0);
    struct board *board = map_at(fd, MAPPINGS - 1);
    mempool_t *pool = new_pool((unsigned char *)board + POOL_AT, POOL_LEN, NULL);
    mempool_stats_t fresh = check_quiet(pool);
    struct board *second = map_at(fd, MAPPINGS - 2);
    CHECK(close(fd) == 0);
    mempool_t *twin = attach_to(second);
    test_twins(pool, twin);
    OK(mempool_detach(twin));
    check_whole(pool, &fresh);

    pid_t workers[PROCESSES];
    for (unsigned i = 0; i < PROCESSES; i++) {
        start_worker(argv[0], name, i, &workers[i]);
    }
    wait_for(&board->attached, PROCESSES);
    CHECK(shm_unlink(name) == 0); /* all have mapped it: from here on nothing is left behind, however this ends */
    board->deadline_ns = now_ns() + run_ns();
    atomic_fetch_add(&board->attached, 1);

    for (unsigned i = 0; i < PROCESSES; i++) {
        wait_ok(workers[i]);
    }
    for (unsigned i = 0; i < MAPPINGS; i++) {
        for (unsigned j = 0; j < i; j++) {
            CHECK(atomic_load(&board->address[i]) != atomic_load(&board->address[j]));
        }
    }

    mempool_stats_t s = check_quiet(pool);
    CHECK(s.rejected_frees == 2 && s.recoveries == 0);
    uint64_t held = drain(pool, board->exchange, EXCHANGE);
    for (unsigned i = 0; i < MAPPINGS; i++) {
        held += drain(pool, board->own[i], OWN);
    }
    CHECK(held == s.used_count);
    check_whole(pool, &fresh);
    OK(mempool_detach(pool));
    printf("%llu steps through %d mappings\n", (unsigned long long)atomic_load(&board->steps), MAPPINGS);
    return PASSED();
}
