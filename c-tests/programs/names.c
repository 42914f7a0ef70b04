/* Names and the root: what is refused, what a bound block may still do, thousands of names, other mappings, many processes
 * that want one name, and processes that are killed while they give and take names. */
#include "test.h"

#include <fcntl.h>

#define LEN (1 * MIB)

static unsigned char *buffer;
static mempool_t *pool; /* inherited by every child */

static void begin(size_t len, uint32_t flags)
{
    if (pool != NULL) {
        OK(mempool_detach(pool));
    }
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    options.flags = flags;
    pool = new_pool(buffer, len, &options);
}

static void *get(size_t size)
{
    void *block = mempool_malloc(pool, size);
    CHECK(block != NULL);
    return block;
}

/* ---- what is seen of names ---- */

struct seen {
    uint64_t count;
    uint64_t most;      /* stops then */
    uint64_t sum;       /* of hashes of the names */
    bool unbinds;
};

static uint64_t hash_of(const char *name)
{
    uint64_t hash = 1469598103934665603u;
    for (; *name; name++) {
        hash = (hash ^ (unsigned char)*name) * 1099511628211u;
    }
    return hash;
}

static bool see(const char *name, uint64_t offset, void *context)
{
    struct seen *seen = context;
    CHECK(mempool_find(pool, name) == mempool_pointer(pool, offset));
    if (seen->unbinds) {
        OK(mempool_unbind(pool, name));
    }
    seen->sum += hash_of(name);
    return ++seen->count < seen->most;
}

static struct seen see_all(void)
{
    struct seen seen = {.most = UINT64_MAX};
    OK(mempool_names(pool, see, &seen));
    return seen;
}

static uint64_t metas(void)
{
    struct tally t = {.end = 0};
    OK(mempool_walk(pool, tally_visit, &t));
    return t.count[MEMPOOL_BLOCK_META];
}

static void refuses_free(void *block)
{
    uint64_t before = stats_of(pool).rejected_frees;
    REFUSED(MEMPOOL_ERR_BUSY, "has a name", mempool_free(pool, block));
    CHECK(stats_of(pool).rejected_frees == before + 1);
}

/* ---- one process ---- */

static void test_refusals(uint32_t flags)
{
    begin(LEN, flags);
    mempool_stats_t fresh = check_quiet(pool);
    mempool_t *volatile none = NULL;
    char *volatile no_name = NULL;
    char long_name[258];
    memset(long_name, 'x', sizeof long_name);
    long_name[257] = 0;
    void *block = get(100), *other = get(100), *gone = get(100);
    OK(mempool_free(pool, gone));

    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "pool is NULL", mempool_bind(none, "a", block));
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "pool is NULL", mempool_unbind(none, "a"));
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "pool is NULL", mempool_names(none, see, NULL));
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "pool is NULL", mempool_set_root(none, block));
    REFUSED_NULL(EINVAL, MEMPOOL_ERR_INVALID_ARGUMENT, "pool is NULL", mempool_find(none, "a"));
    REFUSED_NULL(EINVAL, MEMPOOL_ERR_INVALID_ARGUMENT, "pool is NULL", mempool_root(none));
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "visit is NULL", mempool_names(pool, NULL, NULL));
    for (int bad = 0; bad < 3; bad++) {
        const char *name = bad == 0 ? no_name : bad == 1 ? "" : long_name;
        REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "name", mempool_bind(pool, name, block));
        REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "name", mempool_unbind(pool, name));
        REFUSED_NULL(EINVAL, MEMPOOL_ERR_INVALID_ARGUMENT, "name", mempool_find(pool, name));
        long_name[256] = 0; /* one byte too many is as bad as two */
    }
    REFUSED(MEMPOOL_ERR_FOREIGN_POINTER, "outside", mempool_bind(pool, "a", NULL));
    REFUSED(MEMPOOL_ERR_FOREIGN_POINTER, "outside", mempool_bind(pool, "a", &fresh));
    REFUSED(MEMPOOL_ERR_FOREIGN_POINTER, "outside", mempool_set_root(pool, &fresh));
    for (int bad = 0; bad < 3; bad++) {
        void *at = bad == 0 ? gone : (unsigned char *)block + (bad == 1 ? 16 : 1);
        REFUSED(MEMPOOL_ERR_NOT_ALLOCATED, "no live block", mempool_bind(pool, "a", at));
        REFUSED(MEMPOOL_ERR_NOT_ALLOCATED, "no live block", mempool_set_root(pool, at));
    }
    REFUSED(MEMPOOL_ERR_NOT_FOUND, "this name", mempool_unbind(pool, "a"));
    REFUSED_NULL(ENOENT, MEMPOOL_ERR_NOT_FOUND, "this name", mempool_find(pool, "a"));
    errno = 1234;
    CHECK(mempool_root(pool) == NULL && errno == 1234); /* there is none: no failure */
    CHECK(mempool_last_error() == MEMPOOL_ERR_NOT_FOUND);
    CHECK(metas() == 0 && see_all().count == 0 && check_quiet(pool).overhead == fresh.overhead);

    OK(mempool_bind(pool, "a", block));
    REFUSED(MEMPOOL_ERR_EXISTS, "mempool_unbind", mempool_bind(pool, "a", other));
    REFUSED(MEMPOOL_ERR_EXISTS, "mempool_unbind", mempool_bind(pool, "a", block));
    long_name[255] = 0;
    OK(mempool_bind(pool, long_name, block));
    OK(mempool_bind(pool, "\x01\xff \n", other));
    CHECK(mempool_find(pool, "a") == block && mempool_find(pool, long_name) == block);
    CHECK(mempool_find(pool, "\x01\xff \n") == other);
    REFUSED_NULL(ENOENT, MEMPOOL_ERR_NOT_FOUND, "", mempool_find(pool, "A"));
    CHECK(metas() == 3 && see_all().count == 3);
    OK(mempool_set_root(pool, block));
    OK(mempool_set_root(pool, block));
    CHECK(mempool_root(pool) == block);
    refuses_free(block);
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "pool is NULL", mempool_unbind_from(none, "a", block));
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "name", mempool_unbind_from(pool, "", block));
    REFUSED(MEMPOOL_ERR_FOREIGN_POINTER, "outside", mempool_unbind_from(pool, "a", NULL));
    REFUSED(MEMPOOL_ERR_NOT_ALLOCATED, "", mempool_unbind_from(pool, "a", (unsigned char *)block + 1));
    REFUSED(MEMPOOL_ERR_NOT_FOUND, "this block", mempool_unbind_from(pool, "a", other));
    REFUSED(MEMPOOL_ERR_NOT_FOUND, "this block", mempool_unbind_from(pool, "b", block));
    CHECK(mempool_find(pool, "a") == block && see_all().count == 3);
    OK(mempool_unbind_from(pool, "a", block));
    REFUSED(MEMPOOL_ERR_NOT_FOUND, "this block", mempool_unbind_from(pool, "a", block));
    OK(mempool_unbind(pool, long_name));
    refuses_free(block);
    OK(mempool_set_root(pool, other)); /* the old one is let go */
    OK(mempool_free(pool, block));
    OK(mempool_unbind(pool, "\x01\xff \n"));
    refuses_free(other);
    OK(mempool_set_root(pool, NULL));
    OK(mempool_set_root(pool, NULL));
    OK(mempool_free(pool, other));
    check_whole(pool, &fresh);
}

/* All that a bound block can do, and what it cannot. */
static void test_bound(uint32_t flags)
{
    begin(LEN, flags);
    mempool_stats_t fresh = check_quiet(pool);
    uint64_t *bound = mempool_calloc(pool, 60, 8); /* a class's size */
    uint64_t *large = mempool_calloc(pool, 1, 99992); /* no class's */
    void *wall = get(64);
    stamp((unsigned char *)bound + 64, 400, 3);
    OK(mempool_bind(pool, "it", bound));
    OK(mempool_bind(pool, "large", large));
    CHECK(mempool_usable_size(pool, bound) >= 480 && mempool_usable_size(pool, large) >= 99992);

    refuses_free(bound);
    refuses_free(large);
    size_t usable = mempool_usable_size(pool, bound);
    REFUSED(MEMPOOL_ERR_BUSY, "has a name", mempool_free_sized(pool, bound, usable));
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "never asked for", mempool_free_sized(pool, bound, 1));
    OK(mempool_malloc_to(pool, 500, &bound[0]));
    uint64_t block = bound[0];
    OK(mempool_bind(pool, "in a slot", mempool_pointer(pool, block)));
    REFUSED(MEMPOOL_ERR_BUSY, "has a name", mempool_free_from(pool, &bound[0]));
    CHECK(bound[0] == block);
    OK(mempool_unbind(pool, "in a slot"));
    OK(mempool_free_from(pool, &bound[0]));
    CHECK(bound[0] == 0);

    uint64_t rejected = stats_of(pool).rejected_frees;
    REFUSED_NULL(EBUSY, MEMPOOL_ERR_BUSY, "has a name", mempool_realloc(pool, bound, 200000));
    REFUSED_NULL(EBUSY, MEMPOOL_ERR_BUSY, "has a name", mempool_realloc(pool, large, 200000));
    CHECK(stats_of(pool).rejected_frees == rejected); /* no free was asked for */
    CHECK(is_stamped((unsigned char *)bound + 64, 400, 3));
    CHECK(mempool_realloc(pool, large, 5000) == large); /* shorter, where it is */
    OK(mempool_expand(pool, large, 9000));
    CHECK(mempool_realloc(pool, large, 12000) == large && mempool_usable_size(pool, large) >= 12000);
    refuses_free(large);
    OK(mempool_trim(pool));
    OK(mempool_recover(pool, NULL));
    check_quiet(pool);
    CHECK(mempool_find(pool, "it") == bound && mempool_find(pool, "large") == large);
    OK(mempool_unbind(pool, "it"));
    OK(mempool_free(pool, bound));
    REFUSED(MEMPOOL_ERR_NOT_ALLOCATED, "", mempool_free(pool, bound));

    OK(mempool_set_root(pool, wall));
    OK(mempool_free_all(pool)); /* names and the root, too */
    CHECK(mempool_root(pool) == NULL && see_all().count == 0);
    REFUSED_NULL(ENOENT, MEMPOOL_ERR_NOT_FOUND, "", mempool_find(pool, "large"));
    check_whole(pool, &fresh);
}

static void test_no_room(void)
{
    begin(2 * KIB, 0);
    void *block = get(16);
    unsigned bound = 0;
    char name[16];
    for (mempool_status_t status = MEMPOOL_OK; status == MEMPOOL_OK; bound++) {
        snprintf(name, sizeof name, "%u", bound);
        status = mempool_bind(pool, name, block);
        CHECK(status == MEMPOOL_OK || status == MEMPOOL_ERR_OUT_OF_MEMORY);
    }
    REFUSED(MEMPOOL_ERR_OUT_OF_MEMORY, "34 bytes", mempool_bind(pool, name, block));
    CHECK(bound > 20 && see_all().count == bound - 1 && check_quiet(pool).failed_allocs == 2);
    OK(mempool_unbind(pool, "0"));
    OK(mempool_bind(pool, name, block));
    check_quiet(pool);
}

/* The dead's blocks that have a name are kept; who is being reaped gets none. */
static void test_reap(uint32_t flags)
{
    begin(LEN, MEMPOOL_OWNER_TAGS | flags);
    pid_t child = fork_process();
    if (child == 0) {
        OK(mempool_bind(pool, "left", get(100)));
        OK(mempool_set_root(pool, get(1000)));
        get(50);
        _exit(0);
    }
    wait_ok(child);
    mempool_reaped_t reaped;
    for (int again = 0; again < 2; again++) {
        OK(mempool_reap(pool, 0, NULL, NULL, &reaped));
        CHECK(reaped.freed_count == !again && reaped.kept_count == 2 && reaped.owners == 0);
        CHECK(check_quiet(pool).used_count == 2);
    }
    OK(mempool_adopt(pool, mempool_root(pool)));
    OK(mempool_unbind(pool, "left"));
    OK(mempool_reap(pool, 0, NULL, NULL, &reaped));
    CHECK(reaped.freed_count == 1 && reaped.kept_count == 0 && reaped.owners == 1);
    CHECK(check_quiet(pool).used_count == 1 && mempool_root(pool) != NULL);
}

enum { MANY = 3000, BLOCKS = 50 };

static const char *name_of(unsigned i)
{
    static char name[256];
    int len = snprintf(name, sizeof name, "%u", i);
    memset(name + len, 'a' + (int)(i % 26), i % 90);
    name[len + (int)(i % 90)] = 0;
    return name;
}

static void test_many(uint32_t flags)
{
    begin(LEN, flags);
    mempool_stats_t fresh = check_quiet(pool);
    void *blocks[BLOCKS];
    uint64_t sum = 0;
    for (unsigned i = 0; i < BLOCKS; i++) {
        blocks[i] = get(40 * i + 1);
    }
    for (unsigned i = 0; i < MANY; i++) {
        OK(mempool_bind(pool, name_of(i), blocks[i % BLOCKS]));
        sum += hash_of(name_of(i));
    }
    check_quiet(pool);
    struct seen seen = see_all();
    CHECK(seen.count == MANY && seen.sum == sum && metas() == MANY);
    for (unsigned i = 0; i < MANY; i += 2) { /* inner entries and leaves, in no order of the tree's */
        OK(mempool_unbind(pool, name_of(i)));
        sum -= hash_of(name_of(i));
    }
    check_quiet(pool);
    for (unsigned i = 0; i < MANY; i++) {
        CHECK(mempool_find(pool, name_of(i)) == (i % 2 ? blocks[i % BLOCKS] : NULL));
    }
    seen = (struct seen){.most = 7};
    OK(mempool_names(pool, see, &seen));
    CHECK(seen.count == 7);
    seen = (struct seen){.most = UINT64_MAX, .unbinds = true};
    OK(mempool_names(pool, see, &seen));
    CHECK(seen.count == MANY / 2 && seen.sum == sum && see_all().count == 0);
    for (unsigned i = 0; i < BLOCKS; i++) {
        OK(mempool_free(pool, blocks[i]));
    }
    check_whole(pool, &fresh);
}

/* ---- other processes ---- */

/* What one process names, another finds, wherever it has mapped the pool. */
static void test_elsewhere(void)
{
    char path[] = "/dev/shm/mempool-names-XXXXXX";
    int fd = mkstemp(path);
    CHECK(fd >= 0 && unlink(path) == 0 && ftruncate(fd, (off_t)LEN) == 0);
    void *here = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(here != MAP_FAILED);
    mempool_t *ours = new_pool(here, LEN, NULL);
    char *text = mempool_malloc(ours, 6);
    CHECK(text != NULL);
    memcpy(text, "hello", 6);
    OK(mempool_bind(ours, "text", text));
    pid_t child = fork_process();
    if (child == 0) {
        void *there = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        CHECK(there != MAP_FAILED && there != here && munmap(here, LEN) == 0);
        mempool_t *theirs = attach(there, LEN);
        char *found = mempool_find(theirs, "text");
        CHECK(found != NULL && found != text && strcmp(found, "hello") == 0);
        REFUSED(MEMPOOL_ERR_BUSY, "has a name", mempool_free(theirs, found));
        char *answer = mempool_malloc(theirs, 4);
        CHECK(answer != NULL);
        memcpy(answer, "you", 4);
        OK(mempool_set_root(theirs, answer));
        OK(mempool_unbind(theirs, "text"));
        OK(mempool_free(theirs, found));
        _exit(0);
    }
    wait_ok(child);
    CHECK(strcmp(mempool_root(ours), "you") == 0);
    REFUSED(MEMPOOL_ERR_NOT_ALLOCATED, "", mempool_free(ours, text));
    check_quiet(ours);
    OK(mempool_detach(ours));
    CHECK(munmap(here, LEN) == 0 && close(fd) == 0);
}

enum { RIVALS = 6, RACES = 150 };

struct race {
    atomic_uint ready[RACES + 1];
    atomic_uint winners[RACES];
    _Atomic(uint64_t) winner[RACES];
};

/* Many want one name: exactly one gets it, and all find it. */
static void test_race(void)
{
    begin(LEN, 0);
    struct race *race = map_shared(sizeof *race);
    pid_t rivals[RIVALS];
    for (unsigned r = 0; r < RIVALS; r++) {
        rivals[r] = fork_process();
        if (rivals[r] != 0) {
            continue;
        }
        void *block = get(64);
        for (unsigned i = 0; i < RACES; i++) {
            atomic_fetch_add(&race->ready[i], 1);
            wait_for(&race->ready[i], RIVALS);
            mempool_status_t status = mempool_bind(pool, name_of(i), block);
            CHECK(status == MEMPOOL_OK || status == MEMPOOL_ERR_EXISTS);
            if (status == MEMPOOL_OK) {
                atomic_fetch_add(&race->winners[i], 1);
                atomic_store(&race->winner[i], mempool_offset(pool, block));
            }
            CHECK(mempool_find(pool, name_of(i)) != NULL);
        }
        _exit(0);
    }
    for (unsigned r = 0; r < RIVALS; r++) {
        wait_ok(rivals[r]);
    }
    for (unsigned i = 0; i < RACES; i++) {
        CHECK(atomic_load(&race->winners[i]) == 1);
        CHECK(mempool_offset(pool, mempool_find(pool, name_of(i))) == atomic_load(&race->winner[i]));
    }
    CHECK(see_all().count == RACES);
    check_quiet(pool);
    CHECK(munmap(race, sizeof *race) == 0);
}

/* ---- killed ---- */

enum { KILLED = 3, OWN_NAMES = 12, OWN_BLOCKS = 4 };

/* What a process has done, and what it is about to do. Who takes its place goes on from there. */
struct life {
    uint64_t blocks[OWN_BLOCKS];             /* slots */
    uint64_t named[OWN_NAMES];               /* 1 + the slot of the block, or 0 */
    uint64_t next_name, next_value;          /* the name under way, + 1, or 0; what it becomes */
    uint64_t calls;
};

struct lives {
    struct life of[KILLED];
};

static struct lives *lives; /* the pool's first block */

static void live_name(char *name, unsigned process, uint64_t i)
{
    snprintf(name, 64, "%u of %u%.*s", (unsigned)i, process, (int)(i * 5 % 31), "the longer the name the better!");
}

static void change_name(struct life *me, unsigned process, uint64_t *random)
{
    uint64_t i = rng_below(random, OWN_NAMES), slot = rng_below(random, OWN_BLOCKS);
    char name[64];
    live_name(name, process, i);
    volatile struct life *said = me;
    said->next_value = me->named[i] ? 0 : slot + 1;
    said->next_name = i + 1;
    if (me->named[i]) {
        OK(mempool_unbind(pool, name));
    } else {
        OK(mempool_bind(pool, name, mempool_pointer(pool, me->blocks[slot])));
    }
    said->named[i] = me->next_value;
    said->next_name = 0;
}

static bool is_named(const struct life *me, uint64_t slot)
{
    for (unsigned i = 0; i < OWN_NAMES; i++) {
        if (me->named[i] == slot + 1) {
            return true;
        }
    }
    return false;
}

static pid_t start_life(unsigned process, uint64_t stream)
{
    pid_t child = fork_process();
    if (child != 0) {
        return child;
    }
    struct life *me = &lives->of[process];
    uint64_t random = rng_seed(stream);
    for (;;) {
        uint64_t slot = rng_below(&random, OWN_BLOCKS);
        switch (rng_below(&random, 8)) {
        case 0: {
            mempool_status_t status = mempool_free_from(pool, &me->blocks[slot]);
            CHECK(status == MEMPOOL_OK || status == MEMPOOL_ERR_BUSY); /* others change the root */
            CHECK(status == MEMPOOL_ERR_BUSY || !is_named(me, slot));
            break;
        }
        case 1:
            OK(mempool_set_root(pool, mempool_pointer(pool, me->blocks[slot])));
            break;
        default:
            change_name(me, process, &random);
        }
        if (me->blocks[slot] == 0) {
            OK(mempool_malloc_to(pool, 1 + rng_below(&random, 700), &me->blocks[slot]));
        }
        *(volatile uint64_t *)&me->calls += 1;
    }
}

/* Nobody is inside a call. Each name is there or not, as its process has said, or was about to say. */
static uint64_t judge_lives(void)
{
    OK(mempool_recover(pool, NULL));
    uint64_t names = 0, blocks = 0, calls = 0;
    for (unsigned p = 0; p < KILLED; p++) {
        struct life *life = &lives->of[p];
        for (uint64_t i = 0; i < OWN_NAMES; i++) {
            char name[64];
            live_name(name, p, i);
            uint64_t found = mempool_offset(pool, mempool_find(pool, name));
            if (life->next_name == i + 1 && found == (life->next_value ? life->blocks[life->next_value - 1] : 0)) {
                life->named[i] = life->next_value; /* it has happened */
            }
            CHECK(found == (life->named[i] ? life->blocks[life->named[i] - 1] : 0));
            names += found != 0;
        }
        life->next_name = 0;
        for (unsigned i = 0; i < OWN_BLOCKS; i++) {
            if (life->blocks[i] == 0) { /* it died before it had another */
                CHECK(!is_named(life, i));
                OK(mempool_malloc_to(pool, 32, &life->blocks[i]));
            }
            blocks++;
        }
        calls += life->calls;
    }
    CHECK(see_all().count == names && metas() == names);
    CHECK(check_quiet(pool).used_count == 1 + blocks);
    return calls;
}

static void test_killed(size_t len, uint32_t flags)
{
    begin(len, flags);
    mempool_stats_t fresh = check_quiet(pool);
    lives = mempool_calloc(pool, 1, sizeof *lives);
    CHECK(lives != NULL);
    judge_lives();
    uint64_t random = rng_seed(len), kills = 0, calls = 0, deadline_ns = now_ns() + run_ns() / 4;
    while (kills < 40 * KILLED || stats_of(pool).recoveries < 5 || now_ns() < deadline_ns) {
        pid_t children[KILLED];
        for (unsigned p = 0; p < KILLED; p++) {
            children[p] = start_life(p, kills + p);
        }
        for (unsigned p = 0; p < KILLED; p++, kills++) {
            struct timespec pause = {.tv_nsec = (long)rng_below(&random, 1500000)};
            nanosleep(&pause, NULL);
            CHECK(kill(children[p], SIGKILL) == 0);
            wait_killed(children[p]);
        }
        calls = judge_lives();
    }
    CHECK(calls > kills);
    printf("%zu KiB: %llu kills in %llu rounds of calls, %llu recoveries\n", len / KIB, (unsigned long long)kills,
           (unsigned long long)calls, (unsigned long long)stats_of(pool).recoveries);
    OK(mempool_set_root(pool, NULL));
    struct seen seen = {.most = UINT64_MAX, .unbinds = true};
    OK(mempool_names(pool, see, &seen));
    CHECK(free_by_walk(pool) == 1 + KILLED * OWN_BLOCKS);
    check_whole(pool, &fresh);
}

int main(void)
{
    buffer = map_shared(LEN);
    const uint32_t looks = MEMPOOL_GUARD | MEMPOOL_FILL_FREED;
    const uint32_t each[] = {0, MEMPOOL_NO_THREAD_CACHES, looks};
    for (size_t i = 0; i < COUNT_OF(each); i++) {
        test_refusals(each[i]);
        test_bound(each[i]);
        test_many(each[i]);
    }
    test_refusals(MEMPOOL_OWNER_TAGS);
    test_no_room();
    test_reap(0);
    test_reap(looks);
    test_elsewhere();
    test_race();
    test_killed(64 * KIB, 0);
    test_killed(LEN, 0);
    test_killed(64 * KIB, looks);
    test_killed(64 * KIB, looks | MEMPOOL_OWNER_TAGS);
    return PASSED();
}
