/* A correct program: no tool may say anything. It does what is hard to tell from a mistake for who knows one process
 * only: other processes' blocks in memory that this one has freed, blocks that others write, pools made anew over the
 * remains of others, buffers that are their owner's again, and whatever the library itself does inside free blocks. */
#include "../../c-tests/programs/test.h"

#include <pthread.h>

static volatile unsigned sink;

/* Decides by every byte: memcheck says so of one that was not written. */
static void use(const unsigned char *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (bytes[i] == 7)
            sink++;
}

/* ---- one process: each call, in a buffer of unwritten memory ---- */

static bool use_name(const char *name, uint64_t offset, void *shown)
{
    use((const unsigned char *)name, strlen(name));
    ++*(unsigned *)shown;
    return offset != 0;
}

static void each_call(mempool_t *pool)
{
    unsigned char *a = mempool_malloc(pool, 100), *b = mempool_calloc(pool, 3, 33);
    unsigned char *c = mempool_calloc_fill(pool, 1, 5000, 9), *d = mempool_aligned_alloc(pool, 512, 77);
    CHECK(a && b && c && d);
    use(b, 99);
    use(c, 5000);
    memset(a, 1, 100);
    memset(d, 2, 77);

    /* All that a block has may be used, once it was asked for. */
    size_t usable = mempool_usable_size(pool, a);
    memset(a, 3, usable);
    use(a, usable);

    for (size_t size = 100; size < 20000; size += size / 3) { /* up, in place or not */
        a = mempool_realloc(pool, a, size);
        CHECK(a != NULL);
        use(a, 100);
        memset(a, 4, size);
    }
    for (size_t size = 20000; size > 10; size -= size / 3) { /* and down */
        a = mempool_realloc(pool, a, size);
        CHECK(a != NULL);
        use(a, size > 100 ? 100 : size);
    }
    unsigned char *large = mempool_malloc(pool, 100000);
    CHECK(large != NULL);
    memset(large, 5, 100000);
    if (mempool_expand(pool, large, 150000) == MEMPOOL_OK)
        memset(large + 100000, 5, 50000);
    use(large, 100000);
    CHECK(mempool_realloc(pool, large, (size_t)1 << 40) == NULL); /* fails: all is as before */
    use(large, 100000);
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "", mempool_free_sized(pool, large, 7));
    use(large, 100000);

    uint64_t *slots = mempool_calloc(pool, 2, sizeof *slots);
    OK(mempool_malloc_to(pool, 200, &slots[0]));
    OK(mempool_calloc_to(pool, 2, 100, &slots[1]));
    memset(mempool_pointer(pool, slots[0]), 6, 200);
    use(mempool_pointer(pool, slots[0]), 200);
    use(mempool_pointer(pool, slots[1]), 200);
    OK(mempool_free_from(pool, &slots[0]));
    OK(mempool_free(pool, mempool_pointer(pool, slots[1])));

    OK(mempool_bind(pool, "some name", a));
    OK(mempool_bind(pool, "another, which is so much longer that it takes a block of another size", a));
    OK(mempool_set_root(pool, d));
    CHECK(mempool_find(pool, "some name") == a && mempool_root(pool) == d);
    REFUSED(MEMPOOL_ERR_BUSY, "", mempool_free(pool, a));
    use(a, 10);
    a = mempool_realloc(pool, a, 9);
    CHECK(a != NULL);
    use(a, 9);
    unsigned shown = 0;
    OK(mempool_names(pool, use_name, &shown));
    CHECK(shown == 2);
    OK(mempool_unbind(pool, "some name"));
    OK(mempool_unbind_from(pool, "another, which is so much longer that it takes a block of another size", a));
    OK(mempool_set_root(pool, NULL));

    OK(mempool_free(pool, a));
    REFUSED(MEMPOOL_ERR_NOT_ALLOCATED, "", mempool_free(pool, a));
    OK(mempool_free_sized(pool, b, 99));
    OK(mempool_free(pool, c));
    OK(mempool_free(pool, d));
    OK(mempool_free(pool, large));
    OK(mempool_free(pool, slots));
}

static void test_calls(void)
{
    size_t len = 1 * MIB;
    unsigned char *buffer = malloc(len + 8); /* nothing in it was written */
    CHECK(buffer != NULL);
    static const uint32_t looks[] = {0, 0, MEMPOOL_GUARD, MEMPOOL_FILL_FREED, MEMPOOL_GUARD | MEMPOOL_FILL_FREED};
    for (unsigned i = 0; i < 6 * COUNT_OF(looks); i++) { /* each over the remains of the last */
        mempool_options_t options = MEMPOOL_OPTIONS_INIT;
        options.align = (size_t)8 << i % 6;
        options.start = 100 * i;
        options.flags = looks[i / 6] | (i % 2 ? MEMPOOL_NO_THREAD_CACHES : MEMPOOL_OWNER_TAGS);
        mempool_t *pool = new_pool(buffer + 8, len, &options);
        each_call(pool);
        each_call(pool);
        OK(mempool_trim(pool));
        unsigned char *left = mempool_calloc(pool, 1, 1000);
        OK(mempool_check(pool));
        check_quiet_from(pool, options.start);
        switch (i % 3) {
        case 0: /* two handles: one goes, the other stays */
            mempool_detach(pool);
            OK(mempool_attach(buffer + 8, len, &options, &pool));
            mempool_t *second;
            OK(mempool_attach(buffer + 8, len, &options, &second));
            OK(mempool_detach(second));
            use(left, 1000);
            OK(mempool_free(pool, left));
            break;
        case 1:
            OK(mempool_free_all(pool));
            each_call(pool);
            break;
        default:
            OK(mempool_release(pool));
            memset(buffer, 1, len); /* its owner's again */
        }
        OK(mempool_detach(pool));
        memset(buffer, (int)i, len);
        use(buffer, len);
    }
    free(buffer);
}

/* ---- threads: blocks go from cache to cache ---- */

enum { THREADS = 4, ROUNDS = 300, PLACES = 32 };

static _Atomic(unsigned char *) passed[PLACES];

static void *work(void *context)
{
    mempool_t *pool = context;
    uint64_t random = rng_seed((uintptr_t)&random >> 12);
    for (unsigned i = 0; i < ROUNDS; i++) {
        size_t size = 16 + rng_below(&random, 3000);
        unsigned char *block = mempool_malloc(pool, size);
        CHECK(block != NULL);
        memset(block, (int)i, size);
        block = atomic_exchange(&passed[rng_below(&random, PLACES)], block);
        if (block != NULL) {
            use(block, 16);
            OK(mempool_free(pool, block));
        }
    }
    return NULL;
}

static void test_threads(void)
{
    static unsigned char buffer[2 << 20];
    mempool_t *pool = new_pool(buffer, sizeof buffer, NULL);
    pthread_t threads[THREADS];
    for (unsigned i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, work, pool) == 0);
    for (unsigned i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    for (unsigned i = 0; i < PLACES; i++)
        if (passed[i] != NULL)
            OK(mempool_free(pool, passed[i]));
    check_quiet(pool);
    OK(mempool_detach(pool));
}

/* Who opens a pool that another thread makes may have a block before that one is back. */
enum { OPENERS = 6, OPENINGS = 2000 };

static unsigned char blank[64 * KIB];
static pthread_barrier_t openers;

static void *open_first(void *context)
{
    (void)context;
    for (unsigned i = 0; i < OPENINGS; i++) {
        mempool_t *pool;
        bool created;
        OK(mempool_open(blank, sizeof blank, NULL, &pool, &created));
        unsigned char *block = mempool_malloc(pool, 100);
        CHECK(block != NULL);
        pthread_barrier_wait(&openers);
        *(volatile unsigned char *)block = 1;
        pthread_barrier_wait(&openers);
        OK(mempool_detach(pool));
        if (pthread_barrier_wait(&openers) == PTHREAD_BARRIER_SERIAL_THREAD)
            memset(blank, 0, sizeof blank);
        pthread_barrier_wait(&openers);
    }
    return NULL;
}

static void test_open(void)
{
    pthread_t threads[OPENERS];
    CHECK(pthread_barrier_init(&openers, NULL, OPENERS) == 0);
    for (unsigned i = 0; i < OPENERS; i++)
        CHECK(pthread_create(&threads[i], NULL, open_first, NULL) == 0);
    for (unsigned i = 0; i < OPENERS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

/* ---- processes: what one frees another gets ---- */

struct board {
    _Atomic(uint64_t) letter[2];
    atomic_uint turn;
};

enum { TURNS = 200 };

/* Two processes hand each other blocks by offset, in turn. Each keeps freeing and making, so that the same bytes
 * belong now to one, now to the other. Who sends a block lets go of it, or keeps it and reads what the other wrote. */
static void play(mempool_t *pool, struct board *board, unsigned side)
{
    unsigned char *kept = NULL;
    for (unsigned i = side; i < TURNS; i += 2) {
        wait_for(&board->turn, i);
        size_t size = 20 + i * 37 % 4000;
        if (kept != NULL) { /* the other has written to it since */
            use(kept, 20);
            CHECK(kept[0] == 99);
            OK(mempool_free(pool, kept));
        }
        uint64_t offset = atomic_exchange(&board->letter[side], 0);
        if (offset != 0) {
            unsigned char *block = mempool_pointer(pool, offset);
            size_t len = mempool_usable_size(pool, block);
            CHECK(len >= 20);
            if (i % 4 < 2) { /* a gift */
                use(block, 20);
                block = mempool_realloc(pool, block, size + 2000);
                CHECK(block != NULL);
                use(block, 20);
                OK(mempool_free(pool, block));
            } else { /* a loan, not written yet */
                block[0] = 99;
                memset(block + 1, 3, 19);
            }
        }
        unsigned char *spare = mempool_calloc(pool, 1, size); /* the next turn's bytes are ones that were freed here */
        unsigned char *block = mempool_malloc(pool, size);
        CHECK(spare && block);
        OK(mempool_free(pool, spare));
        bool is_gift = (i + 1) % 4 < 2;
        if (is_gift)
            memset(block, 5, size);
        atomic_store(&board->letter[1 - side], mempool_offset(pool, block));
        kept = is_gift ? NULL : block;
        OK(mempool_trim(pool)); /* so that the other gets them */
        atomic_store(&board->turn, i + 1);
    }
    if (kept != NULL) {
        wait_for(&board->turn, TURNS);
    }
}

static void test_processes(void)
{
    size_t len = 1 * MIB;
    unsigned char *buffer = map_shared(len);
    struct board *board = map_shared(sizeof *board);
    mempool_t *pool = new_pool(buffer, len, NULL);
    pid_t child = fork_process();
    if (child == 0) {
        play(pool, board, 1);
        _exit(0);
    }
    play(pool, board, 0);
    wait_ok(child);
    OK(mempool_check(pool));
    OK(mempool_detach(pool));
}

/* A block that its slot names is for others to write. */
static void test_slots(void)
{
    size_t len = 1 * MIB;
    mempool_t *pool = new_pool(map_shared(len), len, NULL);
    uint64_t *slot = mempool_calloc(pool, 1, sizeof *slot);
    OK(mempool_malloc_to(pool, 200, slot));
    pid_t child = fork_process();
    if (child == 0) {
        memset(mempool_pointer(pool, *slot), 1, 200);
        OK(mempool_free_from(pool, slot));
        OK(mempool_malloc_to(pool, 500, slot));
        memset(mempool_pointer(pool, *slot), 1, 500);
        _exit(0);
    }
    wait_ok(child);
    use(mempool_pointer(pool, *slot), 500);
    OK(mempool_free_from(pool, slot));
    OK(mempool_malloc_to(pool, 200, slot));
    atomic_uint *made = map_shared(sizeof *made);
    child = fork_process();
    if (child == 0) { /* made after the fork, which shows all that there is */
        wait_for(made, 1);
        memset(mempool_pointer(pool, *slot), 1, 300);
        _exit(0);
    }
    OK(mempool_free_from(pool, slot));
    OK(mempool_malloc_to(pool, 300, slot));
    atomic_store(made, 1);
    wait_ok(child);
    use(mempool_pointer(pool, *slot), 300);
    OK(mempool_free_from(pool, slot));
    OK(mempool_free(pool, slot));
    OK(mempool_detach(pool));
}

/* A fork's child knows all blocks by their addresses. */
static void test_inheritance(void)
{
    size_t len = 1 * MIB;
    mempool_t *pool = new_pool(map_shared(len), len, NULL);
    unsigned char *block = mempool_malloc(pool, 300);
    CHECK(block != NULL);
    pid_t child = fork_process();
    if (child == 0) {
        memset(block, 1, 300);
        _exit(0);
    }
    wait_ok(child);
    use(block, 300);
    OK(mempool_free(pool, block));
    OK(mempool_detach(pool));
}

/* What another has freed is not lost: found out at detach. */
static void test_freed_by_another(void)
{
    size_t len = 1 * MIB;
    mempool_t *pool = new_pool(map_shared(len), len, NULL);
    atomic_uint *made = map_shared(sizeof *made);
    pid_t child = fork_process();
    if (child == 0) {
        wait_for(made, 1);
        _exit(mempool_free_all(pool) != MEMPOOL_OK);
    }
    for (unsigned i = 0; i < 100; i++)
        CHECK(mempool_calloc(pool, 1, 100 + i) != NULL);
    atomic_store(made, 1);
    wait_ok(child);
    OK(mempool_detach(pool));
}

static bool use_block(const mempool_block_t *block, void *context)
{
    if (block->state == MEMPOOL_BLOCK_LIVE)
        use((unsigned char *)context + block->offset, 64);
    return true;
}

static bool use_reaped(const mempool_block_t *block, const mempool_owner_t *owner, void *context)
{
    CHECK(owner->pid != 0);
    use((unsigned char *)context + block->offset, 64);
    return true;
}

/* Found by a walk, adopted, reaped; made by one and freed by another before the first asks for such bytes again. */
static void test_the_dead(void)
{
    size_t len = 1 * MIB;
    unsigned char *buffer = map_shared(len);
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    options.flags = MEMPOOL_OWNER_TAGS;
    mempool_t *pool = new_pool(buffer, len, &options);
    atomic_uint *done = map_shared(sizeof *done);
    for (unsigned round = 0; round < 3; round++) {
        unsigned char *mine[50];
        for (unsigned i = 0; i < 50; i++) {
            mine[i] = mempool_calloc(pool, 1, 64 + i * 32);
            CHECK(mine[i] != NULL);
        }
        for (unsigned i = 0; i < 50; i += 2)
            OK(mempool_free(pool, mine[i]));
        OK(mempool_trim(pool));
        pid_t child = fork_process();
        if (child == 0) {
            for (unsigned i = 1; i < 50; i += 2)
                OK(mempool_free(pool, mine[i])); /* made before the fork: by its address */
            for (unsigned i = 0; i < 100; i++)
                CHECK(mempool_calloc(pool, 1, 64 + i % 7 * 100) != NULL);
            atomic_store(done, round + 1);
            for (;;)
                pause();
        }
        wait_for(done, round + 1);
        CHECK(kill(child, SIGKILL) == 0);
        wait_killed(child);
        OK(mempool_walk(pool, use_block, buffer));
        for (unsigned i = 0; i < 20; i++)
            OK(mempool_free(pool, mempool_calloc(pool, 1, 100 + i * 100)));
        OK(mempool_reap(pool, child, use_reaped, buffer, NULL));
        CHECK(stats_of(pool).used_count == 0);
    }
    OK(mempool_detach(pool));
}

/* A private buffer: after a fork there are two pools. */
static void test_copies(void)
{
    static unsigned char buffer[1 << 20];
    mempool_t *pool = new_pool(buffer, sizeof buffer, NULL);
    unsigned char *block = mempool_malloc(pool, 3000);
    CHECK(block != NULL);
    memset(block, 1, 3000);
    pid_t child = fork_process();
    if (child == 0) {
        use(block, 3000);
        OK(mempool_free(pool, block));
        each_call(pool);
        _exit(0);
    }
    wait_ok(child);
    use(block, 3000);
    OK(mempool_free(pool, block));
    OK(mempool_detach(pool));
}

int main(void)
{
    test_calls();
    test_threads();
    test_open();
    test_processes();
    test_slots();
    test_inheritance();
    test_the_dead();
    test_copies();
    test_freed_by_another(); /* the last: another fork would show what it leaves */
    return PASSED();
}
