/* Whose blocks are, and what mempool_reap does with those of the dead: refused, seen, kept, handed over, freed; pools in
 * which anybody, who reaps included, is killed at any instruction. */
#include "churn.h"
#include "stepped.h"

#include <pthread.h>

#define LEN (512 * KIB)

static unsigned char *buffer;
static mempool_t *pool; /* inherited by every child */
static mempool_t *volatile no_pool;

static void begin_with(size_t len, uint32_t flags, size_t align)
{
    if (pool != NULL) {
        OK(mempool_detach(pool));
    }
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    options.flags = MEMPOOL_OWNER_TAGS | flags;
    options.align = align;
    pool = new_pool(buffer, len, &options);
}

static void begin(void)
{
    begin_with(LEN, 0, 0);
}

static void *get(size_t size)
{
    void *block = mempool_malloc(pool, size);
    CHECK(block != NULL);
    return block;
}

static mempool_owner_t owner_of(const void *block)
{
    mempool_owner_t owner;
    OK(mempool_owner_of(pool, block, &owner));
    CHECK(owner.reserved == 0);
    return owner;
}

static mempool_reaped_t reap(pid_t pid)
{
    mempool_reaped_t reaped;
    memset(&reaped, 0xA5, sizeof reaped);
    OK(mempool_reap(pool, pid, NULL, NULL, &reaped));
    CHECK(reaped.kept_count == 0 && reaped.kept_size == 0);
    return reaped;
}

static uint64_t used(void)
{
    return check_quiet(pool).used_count;
}

static void refuses_reap(pid_t pid, mempool_status_t status, const char *words)
{
    mempool_reaped_t reaped;
    memset(&reaped, 0xA5, sizeof reaped);
    REFUSED(status, words, mempool_reap(pool, pid, NULL, NULL, &reaped));
    CHECK(is_filled(&reaped, sizeof reaped, 0));
}

/* What children and their parent tell each other. */
struct board {
    atomic_uint ready;
    _Atomic(uint64_t) offset;
    slot_t slots[3][64];
    slot_t exchange[32];
    _Atomic(uint64_t) steps[3];
};

static struct board *board;

/* A child that does something, says that it is ready and waits for its end. */
static pid_t child_that(void (*work)(void))
{
    atomic_store(&board->ready, 0);
    pid_t child = fork_process();
    if (child == 0) {
        work();
        atomic_store(&board->ready, 1);
        for (;;) {
            pause();
        }
    }
    wait_for(&board->ready, 1);
    return child;
}

static void end(pid_t child)
{
    CHECK(kill(child, SIGKILL) == 0);
    wait_killed(child);
}

/* ---- whose a block is ---- */

/* Field 22 of /proc/self/stat. */
static uint64_t my_start(void)
{
    char text[1024] = {0};
    FILE *file = fopen("/proc/self/stat", "r");
    CHECK(file != NULL && fread(text, 1, sizeof text - 1, file) > 0);
    fclose(file);
    char *at = strrchr(text, ')');
    for (int field = 2; field < 22; field++) {
        at = strchr(at + 1, ' ');
        CHECK(at != NULL);
    }
    return strtoull(at, NULL, 10);
}

static void is_mine(const void *block)
{
    CHECK(block != NULL);
    CHECK(owner_of(block).pid == getpid() && owner_of(block).start == my_start());
}

static void make_a_few(void)
{
    OK(mempool_label(pool, 77));
    for (int i = 0; i < 100; i++) {
        get(1 + 11 * (size_t)i);
    }
    get(70000); /* too large for caches */
    void *block = mempool_calloc(pool, 10, 10);
    OK(mempool_calloc_to(pool, 1, 20, block));
    CHECK(mempool_aligned_alloc(pool, 1024, 100) != NULL);
    for (int i = 0; i < 10; i++) { /* one that caches hold */
        OK(mempool_free(pool, get(64)));
    }
    atomic_store(&board->offset, mempool_offset(pool, block));
}

enum { A_FEW = 104 };

static void take_over(void)
{
    void *block = mempool_pointer(pool, atomic_load(&board->offset));
    CHECK(owner_of(block).pid == getppid());
    OK(mempool_adopt(pool, block));
    is_mine(block);
    block = mempool_realloc(pool, get(1000), 2000);
    is_mine(block);
}

static void test_owner(void)
{
    begin();
    is_mine(get(10));
    is_mine(get(70000));
    is_mine(mempool_calloc(pool, 3, 50));
    is_mine(mempool_aligned_alloc(pool, 4096, 50));
    void *block = get(50);
    CHECK(owner_of(block).label == 0);
    OK(mempool_label(pool, UINT64_MAX));
    CHECK(owner_of(block).label == UINT64_MAX);
    CHECK(owner_of(block).pid == getpid());

    OK(mempool_abandon(pool, block));
    mempool_owner_t owner;
    REFUSED(MEMPOOL_ERR_NOT_FOUND, "nobody", mempool_owner_of(pool, block, &owner));
    CHECK(is_filled(&owner, sizeof owner, 0));
    OK(mempool_abandon(pool, block));
    OK(mempool_adopt(pool, block));
    is_mine(block);
    OK(mempool_adopt(pool, block));
    is_mine(block);

    pid_t child = child_that(make_a_few);
    void *theirs = mempool_pointer(pool, atomic_load(&board->offset));
    CHECK(owner_of(theirs).pid == child && owner_of(theirs).label == 77);
    theirs = mempool_realloc(pool, theirs, 90); /* in place */
    is_mine(theirs);
    end(child);

    atomic_store(&board->offset, mempool_offset(pool, theirs));
    child = child_that(take_over);
    CHECK(owner_of(theirs).pid == child);
    end(child);

    OK(mempool_free(pool, block));
    REFUSED(MEMPOOL_ERR_NOT_ALLOCATED, "", mempool_owner_of(pool, block, &owner));
    CHECK(is_filled(&owner, sizeof owner, 0));
    REFUSED(MEMPOOL_ERR_NOT_ALLOCATED, "", mempool_adopt(pool, block));
    REFUSED(MEMPOOL_ERR_NOT_ALLOCATED, "", mempool_abandon(pool, block));
    REFUSED(MEMPOOL_ERR_FOREIGN_POINTER, "", mempool_adopt(pool, NULL));
    REFUSED(MEMPOOL_ERR_FOREIGN_POINTER, "", mempool_abandon(pool, &owner));
    REFUSED(MEMPOOL_ERR_FOREIGN_POINTER, "", mempool_owner_of(pool, NULL, &owner));
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "owner is NULL", mempool_owner_of(pool, theirs, NULL));
    CHECK(stats_of(pool).rejected_frees == 0);
}

static void test_without_owners(void)
{
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    OK(mempool_detach(pool));
    pool = new_pool(buffer, LEN, &options);
    void *block = get(10);
    mempool_owner_t owner;
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "OWNER_TAGS", mempool_adopt(pool, block));
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "OWNER_TAGS", mempool_abandon(pool, block));
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "OWNER_TAGS", mempool_owner_of(pool, block, &owner));
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "OWNER_TAGS", mempool_label(pool, 1));
    refuses_reap(0, MEMPOOL_ERR_INVALID_ARGUMENT, "OWNER_TAGS");
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "pool is NULL", mempool_adopt(no_pool, block));
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "pool is NULL", mempool_abandon(no_pool, block));
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "pool is NULL", mempool_owner_of(no_pool, block, &owner));
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "pool is NULL", mempool_label(no_pool, 1));
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "pool is NULL", mempool_reap(no_pool, 0, NULL, NULL, NULL));

    /* Owners cost what they are said to, in pools that want them. */
    mempool_stats_t plain = stats_of(pool);
    begin();
    mempool_stats_t owned = stats_of(pool);
    uint64_t tags = (plain.total - plain.overhead) / plain.align, more = owned.overhead - plain.overhead;
    CHECK(more <= tags + LEN / 64 + 64 && more >= tags * 9 / 10);
    options.flags = MEMPOOL_OWNER_TAGS;
    CHECK(mempool_min_len(&options) < KIB && mempool_min_len(&options) > mempool_min_len(NULL));
}

/* ---- what the dead left ---- */

static void test_reap(void)
{
    begin();
    void *mine = get(40);
    refuses_reap(getpid(), MEMPOOL_ERR_BUSY, "lives");
    refuses_reap(-1, MEMPOOL_ERR_INVALID_ARGUMENT, "pid");
    CHECK(reap(0).freed_count == 0);
    CHECK(reap(1).freed_count == 0 && reap(1).owners == 0); /* has none */

    pid_t child = child_that(make_a_few), other = child_that(make_a_few);
    CHECK(stats_of(pool).used_count == 1 + 2 * A_FEW);
    refuses_reap(child, MEMPOOL_ERR_BUSY, "lives");
    CHECK(reap(0).freed_count == 0);
    CHECK(kill(child, SIGSTOP) == 0);
    refuses_reap(child, MEMPOOL_ERR_BUSY, "lives");

    /* Dead, but nobody has waited for it yet. */
    CHECK(kill(child, SIGKILL) == 0);
    siginfo_t info;
    CHECK(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT) == 0);
    uint64_t before = stats_of(pool).used_size;
    mempool_reaped_t reaped = reap(child);
    wait_killed(child);
    CHECK(reaped.freed_count == A_FEW && reaped.owners == 1);
    CHECK(before - stats_of(pool).used_size == reaped.freed_size);
    CHECK(used() == 1 + A_FEW);
    CHECK(reap(child).freed_count == 0 && reap(0).freed_count == 0);

    end(other);
    CHECK(mempool_reap(pool, 0, NULL, NULL, NULL) == MEMPOOL_OK);
    CHECK(used() == 1);
    is_mine(mine);
}

struct seen {
    pid_t pid;
    uint64_t count, size, kept, adopted;
};

static bool every_third(const mempool_block_t *block, const mempool_owner_t *owner, void *context)
{
    struct seen *seen = context;
    void *at = mempool_pointer(pool, block->offset);
    CHECK(block->state == MEMPOOL_BLOCK_LIVE && block->reserved == 0);
    CHECK(mempool_usable_size(pool, at) == block->size);
    CHECK(owner->pid == seen->pid && owner->label == 77 && owner->start >= my_start());
    seen->count++;
    seen->size += block->size;
    switch (seen->count % 3) {
    case 0:
        seen->kept++;
        return false;
    case 1:
        OK(mempool_adopt(pool, at)); /* whatever is said then, it is ours */
        seen->adopted++;
        return true;
    default:
        OK(mempool_free(pool, get(100))); /* any function may be called */
        return true;
    }
}

static void test_visit(void)
{
    begin();
    pid_t child = child_that(make_a_few);
    end(child);
    struct seen seen = {.pid = child};
    mempool_reaped_t reaped;
    OK(mempool_reap(pool, child, every_third, &seen, &reaped));
    CHECK(seen.count == A_FEW);
    CHECK(reaped.freed_count == A_FEW - seen.kept - seen.adopted);
    CHECK(reaped.kept_count == seen.kept + seen.adopted);
    CHECK(reaped.freed_size + reaped.kept_size == seen.size);
    CHECK(reaped.owners == 0); /* some are still there */
    CHECK(used() == seen.kept + seen.adopted);

    reaped = reap(0);
    CHECK(reaped.freed_count == seen.kept && reaped.owners == 1);
    CHECK(free_by_walk(pool) == seen.adopted);
}

static void receive_and_abandon(void)
{
    OK(mempool_abandon(pool, get(10)));
    get(20);
    OK(mempool_adopt(pool, mempool_pointer(pool, atomic_load(&board->offset))));
}

/* What was handed over goes with who has it. */
static void test_hand_over(void)
{
    begin();
    pid_t sender = child_that(make_a_few), receiver = child_that(receive_and_abandon);
    end(sender);
    CHECK(reap(sender).freed_count == A_FEW - 1);
    CHECK(stats_of(pool).used_count == 3);
    end(receiver);
    CHECK(reap(0).freed_count == 2);
    CHECK(used() == 1);
}

static void *rest_for_ever(void *context)
{
    atomic_store(&board->ready, 1);
    pause();
    return context;
}

static void end_first_thread(void)
{
    get(10);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, rest_for_ever, NULL) == 0);
    pthread_exit(NULL);
}

/* A process whose first thread has ended looks like a zombie, and lives. */
static void test_first_thread(void)
{
    begin();
    pid_t child = child_that(end_first_thread);
    struct timespec pause = {.tv_nsec = 20000000};
    nanosleep(&pause, NULL);
    refuses_reap(child, MEMPOOL_ERR_BUSY, "lives");
    end(child);
    CHECK(reap(child).freed_count == 1);
}

/* The one entry in the pool's table of owners that is this process's. */
static uint64_t *my_entry(void)
{
    uint64_t *found = NULL, start = my_start();
    for (size_t at = 8; at < stats_of(pool).overhead; at += 8) {
        uint64_t *word = (uint64_t *)(void *)(buffer + at);
        if (word[0] == start && (uint32_t)word[-1] == (uint32_t)getpid() && word[1] == 4711) {
            CHECK(found == NULL);
            found = word;
        }
    }
    CHECK(found != NULL);
    return found;
}

/* A process that had our number before us: the same, but for its start. */
static void test_reused_number(void)
{
    begin();
    OK(mempool_label(pool, 4711));
    for (int i = 0; i < 20; i++) {
        get(100);
    }
    *my_entry() -= 1;
    mempool_t *first = pool;
    pool = attach(buffer, LEN); /* which asks who we are */
    void *block = get(100);
    is_mine(block);
    CHECK(stats_of(pool).used_count == 21);
    CHECK(reap(getpid()).freed_count == 20);
    is_mine(block);
    refuses_reap(getpid(), MEMPOOL_ERR_BUSY, "lives");
    CHECK(used() == 1);
    OK(mempool_detach(first));

    /* A boot before this one: whoever has the numbers now. */
    OK(mempool_label(pool, 4711));
    ((uint32_t *)my_entry())[-1] ^= 1;
    CHECK(reap(0).freed_count == 1);
}

static void make_one(void)
{
    get(10);
}

static void make_none(void)
{
    OK(mempool_free(pool, get(10)));
}

static void find_no_room(void)
{
    REFUSED_NULL(EBUSY, MEMPOOL_ERR_BUSY, "owner", mempool_malloc(pool, 10));
    REFUSED_NULL(EBUSY, MEMPOOL_ERR_BUSY, "owner", mempool_calloc(pool, 1, 10));
    void *block = mempool_pointer(pool, atomic_load(&board->offset));
    REFUSED(MEMPOOL_ERR_BUSY, "owner", mempool_adopt(pool, block));
    REFUSED(MEMPOOL_ERR_BUSY, "owner", mempool_label(pool, 3));
    REFUSED(MEMPOOL_ERR_BUSY, "owner", mempool_malloc_to(pool, 10, block));
    OK(mempool_abandon(pool, block));
}

/* A small pool knows eight owners. Those of whom no block is left make room by themselves. */
static void test_full_table(void)
{
    for (int large = 0; large < 2; large++) {
        size_t len = large ? 256 * KIB : 8 * KIB;
        unsigned room = large ? 170 : 8;
        begin_with(len, 0, 0);
        void *mine = mempool_calloc(pool, 1, 10);
        atomic_store(&board->offset, mempool_offset(pool, mine));
        for (unsigned i = 0; i < 2 * room; i++) {
            end(child_that(make_none));
        }
        for (unsigned i = 1; i < room; i++) {
            end(child_that(make_one));
        }
        end(child_that(find_no_room));
        CHECK(used() == room);
        mempool_reaped_t reaped = reap(0);
        CHECK(reaped.freed_count == room - 1 && reaped.owners == room - 1);
        end(child_that(make_one));
        CHECK(reap(0).freed_count == 1 && used() == 1);
    }
}

/* ---- deaths ---- */

static void look_around(void)
{
    OK(mempool_check(pool));
}

static void be_known(void)
{
    OK(mempool_label(pool, 1));
}

/* With blocks for all that follows, which have never been anybody's. */
static void fill_cache(void)
{
    get(64);
    get(400);
}

static void make_64(void)
{
    CHECK(mempool_malloc(pool, 64) != NULL);
}

static void make_and_return(void)
{
    OK(mempool_free(pool, get(64)));
    void *block = mempool_realloc(pool, get(64), 400);
    CHECK(mempool_realloc(pool, block, 30) != NULL);
}

static void make_large(void)
{
    CHECK(mempool_calloc(pool, 1, 5000) != NULL);
}

static void adopt_one(void)
{
    OK(mempool_adopt(pool, mempool_pointer(pool, atomic_load(&board->offset))));
}

/* After each change of the pool by somebody who dies then: what he had is his, and goes. */
static unsigned test_stepped(void)
{
    static const struct {
        void (*prepare)(void);
        void (*call)(void);
        size_t len;
    } scenes[] = {
        {look_around, make_64, 16 * KIB},
        {be_known, make_large, 16 * KIB},
        {be_known, adopt_one, 16 * KIB},
        {fill_cache, make_64, 256 * KIB},
        {fill_cache, make_and_return, 256 * KIB},
    };
    unsigned points = 0;
    for (size_t i = 0; i < COUNT_OF(scenes); i++) {
        bool goes_on = true;
        for (unsigned changes = 1; goes_on; changes++) {
            size_t len = scenes[i].len;
            memset(buffer, 0, len); /* no tag of another round is left */
            begin_with(len, 0, 0);
            void *mine[4] = {get(64), get(64), get(400), get(5000)};
            OK(mempool_free(pool, mine[1]));
            atomic_store(&board->offset, mempool_offset(pool, mine[0]));
            pid_t child;
            goes_on = step_until(buffer, len, scenes[i].prepare, scenes[i].call, changes, &child);
            mempool_owner_t owner = owner_of(mine[0]);
            CHECK(owner.pid == getpid() || (owner.pid == child && scenes[i].call == adopt_one));
            uint64_t adopted = owner.pid == child;
            reap(child);
            for (size_t k = 0; k < 64; k++) { /* what has gone to others is nobody's but theirs */
                get(64);
            }
            OK(mempool_recover(pool, NULL));
            CHECK(used() == 3 - adopted + 64);
            points++;
        }
    }
    return points;
}

static pid_t churner(unsigned process, uint64_t stream)
{
    pid_t child = fork_process();
    if (child != 0) {
        return child;
    }
    struct churn churn = {
        .pool = pool,
        .own = board->slots[process],
        .own_count = COUNT_OF(board->slots[process]),
        .largest_log2 = 11,
        .random = rng_seed(stream),
    };
    for (;;) {
        churn_step(&churn);
        atomic_fetch_add(&board->steps[process], 1);
    }
}

static pid_t reaper(void)
{
    pid_t child = fork_process();
    while (child == 0) {
        mempool_status_t status = mempool_reap(pool, 0, NULL, NULL, NULL);
        CHECK(status == MEMPOOL_OK);
    }
    return child;
}

/* Two churn and die, with what they have; one of a third kind lives, and must not lose a byte; and whoever reaps dies as
 * well. In the end nothing is left but what is the third's. */
static void test_random(void)
{
    begin();
    mempool_stats_t fresh = check_quiet(pool);
    uint64_t random = rng_seed(UINT32_MAX), rounds = 0, deadline_ns = now_ns() + run_ns(), reaped = 0;
    pid_t survivor = churner(2, 1);
    while (rounds < 60 || now_ns() < deadline_ns) {
        pid_t doomed[2], reapers = reaper();
        for (unsigned p = 0; p < 2; p++) {
            memset(board->slots[p], 0, sizeof board->slots[p]); /* none of it is left, or all: who can tell */
            doomed[p] = churner(p, 2 + rounds * 2 + p);
        }
        for (unsigned p = 0; p < 2; p++) {
            struct timespec pause = {.tv_nsec = (long)rng_below(&random, 2000000)};
            nanosleep(&pause, NULL);
            end(doomed[p]);
        }
        struct timespec pause = {.tv_nsec = (long)rng_below(&random, 300000)};
        nanosleep(&pause, NULL);
        end(reapers);
        for (unsigned p = 0; p < 2; p++) {
            reaped += reap(doomed[p]).freed_count;
        }
        rounds++;
    }
    CHECK(atomic_load(&board->steps[2]) > 0);
    end(survivor);
    OK(mempool_recover(pool, NULL));
    /* Of the survivor's all is there that is in slots; it may have had one block in its hands. */
    uint64_t held = drain(pool, board->slots[2], COUNT_OF(board->slots[2]));
    CHECK(reap(0).freed_count <= 1);
    check_whole(pool, &fresh);
    printf("%llu rounds: %llu blocks of the dead were left to us, %llu of the living were kept\n",
           (unsigned long long)rounds, (unsigned long long)reaped, (unsigned long long)held);
}

int main(void)
{
    buffer = map_shared(LEN);
    board = map_shared(sizeof *board);
    begin();
    test_owner();
    test_without_owners();
    test_reap();
    test_visit();
    test_hand_over();
    test_first_thread();
    test_reused_number();
    test_full_table();
    printf("%u deaths, one after each change of the pool\n", test_stepped());
    test_random();
    return PASSED();
}
