/* mempool_malloc_to, mempool_calloc_to and mempool_free_from, killed: at every instruction that changed the pool, and at
 * random in several processes at once. After each death every live block is named by exactly one slot, and every slot
 * names a live block or none. */
#include "stepped.h"

/* ---- one call, killed after each of its stores ---- */

/* What the call is made on. The root's first slot is the one; the others hold what else is live. */
struct root {
    _Atomic(uint64_t) slots[8];
};

static unsigned char *buffer;
static mempool_t *pool;
static struct root *root;

static uint64_t *slot(unsigned i)
{
    return (uint64_t *)&root->slots[i];
}

static void begin(size_t len, uint32_t flags)
{
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    options.flags = flags;
    pool = new_pool(buffer, len, &options);
    root = mempool_calloc(pool, 1, sizeof *root);
    CHECK(root != NULL);
}

static void begin_at_top(size_t len, uint32_t flags)
{
    begin(len, flags);
    OK(mempool_malloc_to(pool, 40, slot(1)));
}

/* A hole of 200 bytes or so between live blocks, and a smaller one. */
static void begin_with_holes(size_t len, uint32_t flags)
{
    begin(len, flags);
    for (unsigned i = 1; i < 7; i++) {
        OK(mempool_malloc_to(pool, i % 2 ? 200 : 60, slot(i)));
    }
    OK(mempool_free_from(pool, slot(3)));
    OK(mempool_free_from(pool, slot(6)));
    OK(mempool_malloc_to(pool, 300, slot(6)));
}

/* The first slot's block has a free neighbour on either side. */
static void begin_between_holes(size_t len, uint32_t flags)
{
    begin(len, flags);
    OK(mempool_malloc_to(pool, 100, slot(1)));
    OK(mempool_malloc_to(pool, 100, slot(0)));
    OK(mempool_malloc_to(pool, 100, slot(2)));
    OK(mempool_malloc_to(pool, 100, slot(3)));
    OK(mempool_free_from(pool, slot(1)));
    OK(mempool_free_from(pool, slot(2)));
}

/* What a process does at its first call. */
static void look_around(void)
{
    OK(mempool_check(pool));
}

static void make_small(void)
{
    OK(mempool_malloc_to(pool, 60, slot(0)));
}

static void make_zeroed(void)
{
    OK(mempool_calloc_to(pool, 3, 20, slot(0)));
}

static void drop(void)
{
    OK(mempool_free_from(pool, slot(0)));
}

static const struct scene {
    void (*begin)(size_t len, uint32_t flags);
    void (*call)(void);
    size_t len;
    uint32_t flags;
} scenes[] = {
    {begin_at_top, make_small, 4 * KIB, 0},
    {begin_at_top, make_zeroed, 4 * KIB, MEMPOOL_NO_COMPACT},
    {begin_with_holes, make_small, 4 * KIB, 0},
    {begin_with_holes, make_zeroed, 256 * KIB, 0},
    {begin_between_holes, drop, 4 * KIB, 0},
    {begin_between_holes, drop, 256 * KIB, 0},
};

/* Whoever recovers may die as well: anywhere, or afterwards. */
static void recover_and_die(uint64_t *random)
{
    pid_t child = fork_process();
    if (child == 0) {
        raise(SIGSTOP);
        OK(mempool_recover(pool, NULL));
        for (;;) {
            pause();
        }
    }
    int status = 0;
    CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
    CHECK(kill(child, SIGCONT) == 0);
    uint64_t begin_ns = now_ns(), wait_ns = rng_below(random, 60000);
    while (now_ns() - begin_ns < wait_ns) {
    }
    CHECK(kill(child, SIGKILL) == 0);
    wait_killed(child);
}

/* The pool is sound, and the blocks in it are the root and those in the slots. Returns what the first slot holds. */
static uint64_t judge_root(void)
{
    OK(mempool_recover(pool, NULL));
    OK(mempool_trim(pool));
    mempool_stats_t s = check_quiet(pool);
    uint64_t held = 1;
    for (unsigned i = 0; i < COUNT_OF(root->slots); i++) {
        uint64_t offset = *slot(i);
        held += offset != 0;
        CHECK(offset == 0 || mempool_usable_size(pool, mempool_pointer(pool, offset)) > 0);
    }
    CHECK(s.used_count == held);
    CHECK(s.rejected_frees == 0);
    return *slot(0);
}

/* A death after the so-manieth change. Returns how it is seen in the end: whether the slot has changed. At the first
 * at which the slot itself has, `is_moved` is made so: somebody acts on what he sees there before anybody recovers. */
static bool is_event_over(const struct scene *scene, unsigned changes, uint64_t *random, bool *is_moved, bool *goes_on)
{
    OK(mempool_detach(pool));
    memset(buffer, 0x5A, scene->len);
    scene->begin(scene->len, scene->flags);
    uint64_t before = *slot(0);
    *goes_on = step_until(buffer, scene->len, look_around, scene->call, changes, NULL);

    uint64_t at_death = *slot(0);
    if (at_death != before && !*is_moved) {
        *is_moved = true;
        uint64_t *other = *slot(1) ? slot(1) : slot(3), moved = *other;
        *other = at_death;
        *slot(0) = moved;
        judge_root();
        CHECK(*slot(0) == moved && *other == at_death); /* recovery must not undo that */
        return true;
    }
    if (rng_below(random, 2) == 0) {
        recover_and_die(random);
    }
    uint64_t after = judge_root();
    if (after != before && scene->call == make_zeroed) {
        CHECK(is_filled(mempool_pointer(pool, after), 60, 0));
    }
    CHECK(after == before || before == 0 || after == 0);
    CHECK(at_death == before || after == at_death); /* what was seen to be so, is */
    return after != before;
}

static unsigned test_stepped(void)
{
    unsigned points = 0;
    uint64_t random = rng_seed(1);
    pool = new_pool(buffer, 4 * KIB, NULL);
    for (size_t i = 0; i < COUNT_OF(scenes); i++) {
        unsigned untouched = 0, done = 0;
        bool goes_on = true, is_moved = false;
        for (unsigned changes = 1; goes_on; changes++) {
            if (is_event_over(&scenes[i], changes, &random, &is_moved, &goes_on)) {
                done++;
            } else {
                untouched++;
                CHECK(done == 0); /* one event: it does not go back */
            }
        }
        CHECK(untouched > 2 && done > 2 && is_moved);
        points += untouched + done;
    }
    OK(mempool_detach(pool));
    return points;
}

/* ---- many calls of several processes, killed at random ---- */

enum { PROCESSES = 3, TREES = 6, DEPTH = 5 };

/* Even slots are for nodes, odd ones for leaves of any size and content. */
struct node {
    uint64_t slots[4];
};

struct forest {
    uint64_t trees[PROCESSES][TREES];
};

static struct forest *forest;

struct work {
    _Atomic(uint64_t) steps[PROCESSES];
};

static struct work *work;

static bool is_bare(const struct node *node)
{
    return (node->slots[0] | node->slots[1] | node->slots[2] | node->slots[3]) == 0;
}

/* Something random with one of the slots, or with what is below. */
static void grow(uint64_t *slots, unsigned count, unsigned depth, uint64_t *random)
{
    unsigned i = rng_below(random, count);
    mempool_status_t status = MEMPOOL_OK;
    if (i % 2 != 0) {
        size_t size = 1 + rng_below(random, 1u << rng_below(random, 13));
        status = slots[i] ? mempool_free_from(pool, &slots[i]) : mempool_malloc_to(pool, size, &slots[i]);
        if (status == MEMPOOL_OK && slots[i] != 0) {
            memset(mempool_pointer(pool, slots[i]), 0xFF, size);
        }
    } else if (slots[i] == 0) {
        status = mempool_calloc_to(pool, 1, sizeof(struct node), &slots[i]);
    } else {
        struct node *node = mempool_pointer(pool, slots[i]);
        if (is_bare(node) && rng_below(random, 2) == 0) {
            status = mempool_free_from(pool, &slots[i]);
        } else if (depth < DEPTH) {
            grow(node->slots, COUNT_OF(node->slots), depth + 1, random);
        }
    }
    CHECK(status == MEMPOOL_OK || status == MEMPOOL_ERR_OUT_OF_MEMORY);
}

static pid_t start(unsigned process, uint64_t stream)
{
    pid_t child = fork_process();
    if (child != 0) {
        return child;
    }
    uint64_t random = rng_seed(stream);
    for (;;) {
        grow(forest->trees[process], TREES, 0, &random);
        atomic_fetch_add(&work->steps[process], 1);
    }
}

struct found {
    uint64_t count;
    uint64_t offsets[16384];
};

static void find(const uint64_t *slots, unsigned count, unsigned depth, struct found *found)
{
    CHECK(depth <= DEPTH + 1);
    for (unsigned i = 0; i < count; i++) {
        if (slots[i] == 0) {
            continue;
        }
        struct node *node = mempool_pointer(pool, slots[i]);
        CHECK(node != NULL && mempool_usable_size(pool, node) > 0);
        CHECK(found->count < COUNT_OF(found->offsets));
        found->offsets[found->count++] = slots[i];
        if (i % 2 == 0) {
            find(node->slots, COUNT_OF(node->slots), depth + 1, found);
        }
    }
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Exactly what the slots name lives, each block named once. */
static uint64_t judge_forest(void)
{
    static struct found found;
    found.count = 0;
    OK(mempool_recover(pool, NULL));
    find(forest->trees[0], PROCESSES * TREES, 0, &found);
    qsort(found.offsets, found.count, sizeof found.offsets[0], by_number);
    for (uint64_t i = 1; i < found.count; i++) {
        CHECK(found.offsets[i - 1] != found.offsets[i]);
    }
    mempool_stats_t s = check_quiet(pool);
    CHECK(s.used_count == found.count + 1); /* the forest itself */
    CHECK(s.rejected_frees == 0);
    return found.count;
}

static void pause_at_most(uint64_t *random, unsigned ns)
{
    struct timespec pause = {.tv_nsec = (long)rng_below(random, ns)};
    nanosleep(&pause, NULL);
}

static void test_random(size_t len)
{
    pool = new_pool(buffer, len, NULL);
    forest = mempool_calloc(pool, 1, sizeof *forest);
    CHECK(forest != NULL);
    uint64_t random = rng_seed(UINT32_MAX), rounds = 0, most = 0, recoveries = 0;
    uint64_t deadline_ns = now_ns() + run_ns() / 2;
    while (rounds < 60 || recoveries < 5 || now_ns() < deadline_ns) {
        pid_t workers[PROCESSES];
        for (unsigned p = 0; p < PROCESSES; p++) {
            workers[p] = start(p, rounds * PROCESSES + p);
        }
        for (unsigned p = 0; p < PROCESSES; p++) {
            pause_at_most(&random, 2000000);
            CHECK(kill(workers[p], SIGKILL) == 0);
            wait_killed(workers[p]);
            if (p + 1 < PROCESSES && rounds % 16 == 0) { /* the others go on */
                uint64_t before = atomic_load(&work->steps[p + 1]), begin_ns = now_ns();
                while (atomic_load(&work->steps[p + 1]) == before) {
                    CHECK(now_ns() - begin_ns < 10000000000u);
                    sched_yield();
                }
            }
        }
        uint64_t found = judge_forest();
        most = found > most ? found : most;
        recoveries = stats_of(pool).recoveries;
        rounds++;
    }
    uint64_t steps = 0;
    for (unsigned p = 0; p < PROCESSES; p++) {
        steps += atomic_load(&work->steps[p]);
    }
    printf("%zu KiB: %llu kills in %llu calls: %llu recoveries, at most %llu blocks\n", len / KIB,
           (unsigned long long)rounds * PROCESSES, (unsigned long long)steps, (unsigned long long)recoveries,
           (unsigned long long)most);
    OK(mempool_detach(pool));
}

int main(void)
{
    buffer = map_shared(512 * KIB);
    work = map_shared(sizeof *work);
    printf("%u deaths, one after each change of the pool\n", test_stepped());
    test_random(64 * KIB);
    test_random(512 * KIB);
    return PASSED();
}
