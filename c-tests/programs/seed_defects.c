/* Defects that the implementation this library descends from had, as a C program would meet them: one function each. */
#include "test.h"

#include <pthread.h>

#define LEN (64 * KIB)

static unsigned char memory[LEN + 64];

static mempool_t *begin(void)
{
    return new_pool(memory, LEN, NULL);
}

/* Ends a test: all is free, the pool is whole. */
static void end(mempool_t *pool, const mempool_stats_t *fresh)
{
    check_whole(pool, fresh);
    OK(mempool_detach(pool));
}

/* realloc that moved a block kept the old one for ever. */
static void moving_realloc_leaks(void)
{
    mempool_t *pool = begin();
    mempool_stats_t fresh = check_quiet(pool);
    for (int i = 0; i < 1000; i++) { /* far more than the pool could lose */
        unsigned char *block = mempool_malloc(pool, 1000), *fence = mempool_malloc(pool, 16);
        CHECK(block != NULL && fence != NULL);
        stamp(block, 1000, (unsigned)i);
        unsigned char *moved = mempool_realloc(pool, block, 5000);
        CHECK(moved != NULL && moved != block && is_stamped(moved, 1000, (unsigned)i));
        CHECK(stats_of(pool).used_count == 2 && mempool_usable_size(pool, block) == 0);
        OK(mempool_free(pool, moved));
        OK(mempool_free(pool, fence));
    }
    end(pool, &fresh);
}

/* realloc that found no room freed the block, or changed it. */
static void failed_realloc_loses_the_block(void)
{
    mempool_t *pool = begin();
    mempool_stats_t fresh = check_quiet(pool);
    unsigned char *block = mempool_malloc(pool, 1000), *fence = mempool_malloc(pool, 16);
    CHECK(block != NULL && fence != NULL);
    stamp(block, 1000, 9);
    mempool_stats_t before = stats_of(pool);
    const size_t sizes[] = {LEN, LEN - 2000, 1000000, SIZE_MAX};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        REFUSED_NULL(ENOMEM, MEMPOOL_ERR_OUT_OF_MEMORY, "", mempool_realloc(pool, block, sizes[i]));
        mempool_stats_t after = check_quiet(pool);
        CHECK(after.used_count == before.used_count && after.used_size == before.used_size);
        CHECK(is_stamped(block, 1000, 9));
    }
    OK(mempool_free(pool, block));
    OK(mempool_free(pool, fence));
    end(pool, &fresh);
}

/* The topmost block, shrunk by less than min_split, lowered top all the same, so that the next block overlapped it. */
static void small_shrink_of_the_topmost_block_overlaps(void)
{
    for (size_t size = 100; size <= 200; size++) {
        for (size_t less = 1; less <= 40; less++) {
            mempool_t *pool = begin();
            mempool_stats_t fresh = check_quiet(pool);
            unsigned char *block = mempool_malloc(pool, size);
            CHECK(block != NULL && mempool_realloc(pool, block, size - less) == block);
            size_t usable = mempool_usable_size(pool, block);
            CHECK(usable >= size - less);
            stamp(block, usable, 1); /* all that it says it has */
            unsigned char *next = mempool_malloc(pool, 64);
            CHECK(next != NULL);
            stamp(next, 64, 2);
            CHECK(next >= block + usable || next + 64 <= block);
            CHECK(is_stamped(block, usable, 1));
            OK(mempool_free(pool, block));
            CHECK(is_stamped(next, 64, 2));
            OK(mempool_free(pool, next));
            end(pool, &fresh);
        }
    }
}

/* realloc, stats and free_all worked on the lists without the lock. */
enum { THREADS = 4, HELD = 8, FREE_ALLS = 5 };

struct party {
    mempool_t *pool;
    pthread_barrier_t *barrier;
    unsigned number;
    uint64_t round_ns;
};

static void *member(void *context)
{
    const struct party *party = context;
    uint64_t random = rng_seed(party->number);
    for (int round = 0; round < FREE_ALLS; round++) {
        unsigned char *blocks[HELD] = {NULL};
        size_t sizes[HELD] = {0};
        pthread_barrier_wait(party->barrier);
        uint64_t end_ns = now_ns() + party->round_ns;
        while (now_ns() < end_ns) {
            unsigned i = rng_below(&random, HELD);
            size_t size = 1 + rng_below(&random, 2000);
            CHECK(is_stamped(blocks[i], sizes[i], party->number));
            unsigned char *block = mempool_realloc(party->pool, blocks[i], size);
            CHECK(block != NULL); /* there is room for all that these threads can hold, thrice */
            CHECK(is_stamped(block, size < sizes[i] ? size : sizes[i], party->number));
            stamp(block, size, party->number);
            blocks[i] = block;
            sizes[i] = size;
            mempool_stats_t s = stats_of(party->pool);
            CHECK(s.used_count <= THREADS * HELD + THREADS && s.used_size <= s.total && s.top <= s.total);
        }
        for (size_t i = 0; i < HELD; i++) {
            CHECK(is_stamped(blocks[i], sizes[i], party->number));
        }
        /* Nobody is inside a call; one frees all, and all see it. */
        if (pthread_barrier_wait(party->barrier) == PTHREAD_BARRIER_SERIAL_THREAD) {
            OK(mempool_free_all(party->pool));
        }
        pthread_barrier_wait(party->barrier);
        CHECK(stats_of(party->pool).used_count == 0);
        for (size_t i = 0; i < HELD; i++) {
            CHECK(mempool_usable_size(party->pool, blocks[i]) == 0);
        }
        pthread_barrier_wait(party->barrier);
    }
    return NULL;
}

static void calls_without_the_lock(void)
{
    static unsigned char roomy[256 * KIB];
    mempool_t *pool = new_pool(roomy, sizeof roomy, NULL);
    mempool_stats_t fresh = check_quiet(pool);
    pthread_barrier_t barrier;
    pthread_t threads[THREADS];
    struct party parties[THREADS];
    CHECK(pthread_barrier_init(&barrier, NULL, THREADS) == 0);
    for (unsigned i = 0; i < THREADS; i++) {
        parties[i] = (struct party){pool, &barrier, i, run_ns() / 4 / FREE_ALLS};
        CHECK(pthread_create(&threads[i], NULL, member, &parties[i]) == 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(pthread_barrier_destroy(&barrier) == 0);
    end(pool, &fresh);
}

/* init over a dirty buffer, or over an old pool whose lock was held, waited for ever. */
static void try_pool(void *buffer)
{
    mempool_t *pool = new_pool(buffer, LEN, NULL);
    mempool_stats_t fresh = check_quiet(pool);
    CHECK(fresh.used_count == 0 && fresh.rejected_frees == 0 && fresh.failed_allocs == 0 && fresh.recoveries == 0);
    void *block = mempool_malloc(pool, 1000);
    CHECK(block != NULL);
    OK(mempool_free(pool, block));
    end(pool, &fresh);
}

static void init_hangs_on_dirt(void)
{
    for (int value = 0; value < 256; value++) {
        memset(memory, value, LEN);
        try_pool(memory);
    }
    uint64_t random = rng_seed(0);
    for (int round = 0; round < 50; round++) {
        for (size_t i = 0; i < LEN; i++) {
            memory[i] = (unsigned char)rng_below(&random, 256);
        }
        try_pool(memory);
    }

    /* An old pool with its lock held: that of a process that was stopped, often inside a call, and then killed. */
    unsigned char *shared = map_shared(LEN), *copy = map_shared(LEN);
    mempool_t *pool = new_pool(shared, LEN, NULL);
    pid_t busy = fork_process();
    if (busy == 0) {
        for (;;) {
            void *block = mempool_malloc(pool, 100);
            CHECK(block != NULL);
            OK(mempool_free(pool, block));
        }
    }
    for (int round = 0; round < 100; round++) {
        struct timespec a_while = {.tv_nsec = (long)rng_below(&random, 100000)};
        nanosleep(&a_while, NULL);
        CHECK(kill(busy, SIGSTOP) == 0);
        int status = 0;
        CHECK(waitpid(busy, &status, WUNTRACED) == busy && WIFSTOPPED(status));
        memcpy(copy, shared, LEN);
        try_pool(copy);
        CHECK(kill(busy, SIGCONT) == 0);
    }
    CHECK(kill(busy, SIGKILL) == 0);
    wait_killed(busy);
    try_pool(shared);
    OK(mempool_detach(pool));
    CHECK(munmap(shared, LEN) == 0 && munmap(copy, LEN) == 0);
}

/* Attaching adopted whatever was there: no magic, no version, no size was looked at. */
static void attach_believes_anything(void)
{
    mempool_t *pool = NULL;
    memset(memory, 0, LEN);
    REFUSED(MEMPOOL_ERR_NOT_A_POOL, "not a pool", mempool_attach(memory, LEN, NULL, &pool));
    CHECK(pool == NULL && is_filled(memory, LEN, 0));
    memset(memory, 0x7F, LEN);
    REFUSED(MEMPOOL_ERR_NOT_A_POOL, "not a pool", mempool_attach(memory, LEN, NULL, &pool));

    mempool_t *made = begin();
    REFUSED(MEMPOOL_ERR_INCOMPATIBLE, "bytes", mempool_attach(memory, LEN - 1, NULL, &pool)); /* truncated */
    CHECK(pool == NULL);
    unsigned refused = 0;
    for (size_t at = 0; at < 64; at++) { /* the header has no byte to spare at its start */
        memory[at + (size_t)(-(uintptr_t)memory % 8)] ^= 0xFF;
        mempool_status_t status = mempool_attach(memory, LEN, NULL, &pool);
        refused += status == MEMPOOL_ERR_NOT_A_POOL || status == MEMPOOL_ERR_INCOMPATIBLE ||
                   status == MEMPOOL_ERR_CORRUPTED;
        CHECK(status == MEMPOOL_OK || pool == NULL);
        memory[at + (size_t)(-(uintptr_t)memory % 8)] ^= 0xFF;
    }
    CHECK(refused == 64);
    OK(mempool_detach(made));
}

/* Sizes near 2^31, 2^32 and the largest wrapped around to small ones. */
static void large_sizes_wrap(void)
{
    mempool_t *pool = begin();
    mempool_stats_t fresh = check_quiet(pool);
    const uint64_t edges[] = {(uint64_t)1 << 31, (uint64_t)1 << 32, (uint64_t)1 << 63, 0};
    unsigned char *block = mempool_malloc(pool, 100);
    CHECK(block != NULL);
    stamp(block, 100, 5);
    for (size_t i = 0; i < COUNT_OF(edges); i++) {
        for (uint64_t distance = 1; distance <= 70; distance++) {
            const size_t sizes[] = {(size_t)(edges[i] - distance), (size_t)(edges[i] + distance + LEN)};
            for (size_t k = 0; k < (edges[i] == 0 ? 1 : 2); k++) {
                size_t size = sizes[k];
                REFUSED_NULL(ENOMEM, MEMPOOL_ERR_OUT_OF_MEMORY, "", mempool_malloc(pool, size));
                REFUSED_NULL(ENOMEM, MEMPOOL_ERR_OUT_OF_MEMORY, "", mempool_calloc(pool, size, 1));
                REFUSED_NULL(ENOMEM, MEMPOOL_ERR_OUT_OF_MEMORY, "", mempool_calloc(pool, size / 8 + 1, 8));
                REFUSED_NULL(ENOMEM, MEMPOOL_ERR_OUT_OF_MEMORY, "", mempool_aligned_alloc(pool, 64, size));
                REFUSED_NULL(ENOMEM, MEMPOOL_ERR_OUT_OF_MEMORY, "", mempool_realloc(pool, block, size));
                REFUSED(MEMPOOL_ERR_OUT_OF_MEMORY, "", mempool_expand(pool, block, size));
                CHECK(is_stamped(block, 100, 5));
            }
        }
    }
    OK(mempool_free(pool, block));
    end(pool, &fresh);
}

/* A block that grew exactly to the region's end was refused, or went beyond it. */
static void growing_exactly_to_the_end(void)
{
    for (size_t cut = 0; cut < 40; cut++) { /* wherever the end lies */
        memset(memory, 0x66, sizeof memory);
        mempool_t *pool = new_pool(memory, LEN - cut, NULL);
        mempool_stats_t fresh = check_quiet(pool);
        for (int by_expand = 0; by_expand < 2; by_expand++) {
            unsigned char *block = mempool_malloc(pool, 100);
            CHECK(block != NULL);
            size_t most = (size_t)(memory + (LEN - cut) - block) / 16 * 16;
            REFUSED_NULL(ENOMEM, MEMPOOL_ERR_OUT_OF_MEMORY, "", mempool_realloc(pool, block, most + 1));
            if (by_expand) {
                OK(mempool_expand(pool, block, most));
            } else {
                CHECK(mempool_realloc(pool, block, most) == block);
            }
            CHECK(mempool_usable_size(pool, block) == most);
            memset(block, 0x99, most);
            CHECK(check_quiet(pool).available < 16); /* bytes at the end that make no granule */
            OK(mempool_free(pool, block));
            check_whole(pool, &fresh);
        }
        CHECK(is_filled(memory + (LEN - cut), cut + 64, 0x66));
        OK(mempool_detach(pool));
    }
}

/* Interior, double and foreign pointers were freed. */
static void bad_frees_succeed(void)
{
    static unsigned char other_memory[LEN];
    mempool_t *pool = begin(), *other = new_pool(other_memory, LEN, NULL);
    mempool_stats_t fresh = check_quiet(pool);
    unsigned char *a = mempool_malloc(pool, 200), *b = mempool_malloc(pool, 200), *c = mempool_malloc(other, 200);
    CHECK(a != NULL && b != NULL && c != NULL);
    stamp(b, 200, 1);
    for (size_t i = 1; i < 200; i++) {
        REFUSED(MEMPOOL_ERR_NOT_ALLOCATED, "offset", mempool_free(pool, b + i));
    }
    OK(mempool_free(pool, a));
    REFUSED(MEMPOOL_ERR_NOT_ALLOCATED, "offset", mempool_free(pool, a));
    REFUSED(MEMPOOL_ERR_FOREIGN_POINTER, "", mempool_free(pool, c));
    REFUSED(MEMPOOL_ERR_FOREIGN_POINTER, "", mempool_free(pool, &fresh));
    CHECK(is_stamped(b, 200, 1) && check_quiet(pool).rejected_frees == 199 + 3);
    OK(mempool_free(pool, b));
    OK(mempool_free(other, c));
    OK(mempool_detach(other));
    end(pool, &fresh);
}

/* `available` and `total` were those of the whole buffer. */
static void available_counts_bytes_outside(void)
{
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    options.start = 1000;
    options.end = 21000;
    mempool_t *pool = new_pool(memory, LEN, &options);
    mempool_stats_t fresh = check_quiet_from(pool, options.start);
    CHECK(fresh.total == 20000 && fresh.available == 20000 - fresh.overhead);
    uint64_t got = 0;
    void *block;
    while ((block = mempool_malloc(pool, 16)) != NULL) {
        got += mempool_usable_size(pool, block);
    }
    CHECK(got == fresh.available / 16 * 16); /* not less than it says, not more */
    CHECK(check_quiet_from(pool, options.start).available < 16);
    CHECK(free_by_walk(pool) == got / 16);
    check_whole_from(pool, &fresh, options.start);
    OK(mempool_detach(pool));
}

/* An align that is no power of two was taken for a mask. */
static void align_that_is_no_power_of_two(void)
{
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    for (options.align = 1; options.align < 70000; options.align++) {
        bool good = options.align >= 8 && options.align <= 65536 && (options.align & (options.align - 1)) == 0;
        CHECK(good == (mempool_min_len(&options) != 0));
        if (!good) {
            mempool_t *pool = NULL;
            REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "power of two", mempool_init(memory, LEN, &options, &pool));
            CHECK(pool == NULL);
        }
    }
}

int main(void)
{
    moving_realloc_leaks();
    failed_realloc_loses_the_block();
    small_shrink_of_the_topmost_block_overlaps();
    calls_without_the_lock();
    init_hangs_on_dirt();
    attach_believes_anything();
    large_sizes_wrap();
    growing_exactly_to_the_end();
    bad_frees_succeed();
    available_counts_bytes_outside();
    align_that_is_no_power_of_two();
    return PASSED();
}
