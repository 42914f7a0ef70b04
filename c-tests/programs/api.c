/* What the header says of each function, looked at from outside: results, and each error with its status, its errno
 * and a message that helps. */
#include "test.h"

#include <inttypes.h>
#include <pthread.h>

#define LEN (256 * KIB)

static _Alignas(4096) unsigned char memory[LEN];
static _Alignas(4096) unsigned char elsewhere[LEN];

/* What compilers would warn of if they saw it. */
static mempool_t *volatile no_pool;
static void *volatile nowhere;
static volatile size_t zero = 0, huge = SIZE_MAX;

static mempool_options_t with_flags(uint32_t flags)
{
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    options.flags = flags;
    return options;
}

static mempool_t *begin(uint32_t flags)
{
    mempool_options_t options = with_flags(flags);
    return new_pool(memory, LEN, &options);
}

static void *get(mempool_t *pool, size_t size)
{
    void *block = mempool_malloc(pool, size);
    CHECK(block != NULL);
    return block;
}

/* Bytes of a mempool_malloc of size, and back to nothing. */
static size_t rounded(mempool_t *pool, size_t size)
{
    void *block = get(pool, size);
    size_t usable = mempool_usable_size(pool, block);
    OK(mempool_free(pool, block));
    return usable;
}

/* ---- init, attach, open, detach, release ---- */

static void test_init_refuses(void)
{
    struct {
        mempool_options_t options;
        const char *words;
    } bad[] = {
        {{.align = 1}, "align"},
        {{.align = 4}, "align"},
        {{.align = 12}, "align"},
        {{.align = 24}, "align"},
        {{.align = 131072}, "align"},
        {{.align = SIZE_MAX}, "align"},
        {{.align = SIZE_MAX / 2 + 1}, "align"},
        {{.min_split = 1}, "min_split"},
        {{.min_split = 8}, "min_split"},
        {{.flags = 128}, "flag"},
        {{.flags = 0x80000000u}, "flag"},
        {{.start = 4096, .end = 4096}, "end"},
        {{.start = 4096, .end = 100}, "end"},
    };
    mempool_t *pool;
    unsigned char *zeroes = elsewhere;
    memset(zeroes, 0, LEN);
    memset(memory, 0x11, LEN);
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        bad[i].options.struct_size = sizeof(mempool_options_t);
        pool = (mempool_t *)memory;
        REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, bad[i].words, mempool_init(memory, LEN, &bad[i].options, &pool));
        CHECK(pool == NULL);
        if (bad[i].options.start == 0) {
            CHECK(mempool_min_len(&bad[i].options) == 0);
        }
        bool created = true;
        pool = (mempool_t *)memory;
        REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, bad[i].words,
                mempool_open(zeroes, LEN, &bad[i].options, &pool, &created));
        CHECK(pool == NULL && !created);
    }
    pool = (mempool_t *)memory;
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "buffer", mempool_init(nowhere, LEN, NULL, &pool));
    CHECK(pool == NULL);
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "out", mempool_init(memory, LEN, NULL, (mempool_t **)nowhere));
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "", mempool_init(memory, huge, NULL, &pool)); /* no buffer is as long */

    const size_t too_short[] = {0, 1, 7, 8, 64, 100, mempool_min_len(NULL) / 2};
    for (size_t i = 0; i < COUNT_OF(too_short); i++) {
        pool = (mempool_t *)memory;
        REFUSED(MEMPOOL_ERR_BUFFER_TOO_SMALL, "bytes", mempool_init(memory, too_short[i], NULL, &pool));
        CHECK(pool == NULL);
    }
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    options.start = LEN;
    REFUSED(MEMPOOL_ERR_BUFFER_TOO_SMALL, "bytes", mempool_init(memory, LEN, &options, &pool));
    CHECK(is_filled(memory, LEN, 0x11) && is_filled(zeroes, LEN, 0)); /* who is refused writes nothing */
}

static void test_struct_size(void)
{
    struct {
        mempool_options_t known;
        unsigned char unknown[24];
    } later = {.known = MEMPOOL_OPTIONS_INIT, .unknown = {0}};
    mempool_t *pool = NULL;
    later.known.struct_size = sizeof later;
    OK(mempool_init(memory, LEN, &later.known, &pool));
    OK(mempool_detach(pool));
    CHECK(mempool_min_len(&later.known) == mempool_min_len(NULL));
    for (size_t i = 0; i < sizeof later.unknown; i++) { /* an option that this library does not know is not ignored */
        later.unknown[i] = 1;
        REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "option", mempool_init(memory, LEN, &later.known, &pool));
        CHECK(pool == NULL && mempool_min_len(&later.known) == 0);
        later.unknown[i] = 0;
    }
    const size_t small[] = {0, 1, 8, sizeof(mempool_options_t) - 1};
    for (size_t i = 0; i < COUNT_OF(small); i++) {
        later.known.struct_size = small[i];
        REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "struct_size", mempool_init(memory, LEN, &later.known, &pool));
        REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "struct_size", mempool_attach(memory, LEN, &later.known, &pool));
        CHECK(pool == NULL && mempool_min_len(&later.known) == 0);
    }

    pool = begin(0);
    struct {
        mempool_stats_t known;
        unsigned char unknown[40], behind[8];
    } wide;
    memset(&wide, 0xEE, sizeof wide);
    wide.known.struct_size = sizeof wide.known + sizeof wide.unknown;
    OK(mempool_stats(pool, &wide.known));
    CHECK(wide.known.struct_size == sizeof wide.known + sizeof wide.unknown);
    CHECK(is_filled(wide.unknown, sizeof wide.unknown, 0) && is_filled(wide.behind, sizeof wide.behind, 0xEE));
    CHECK(wide.known.total == LEN);
    for (size_t i = 0; i < sizeof(mempool_stats_t); i++) {
        wide.known.struct_size = i;
        REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "struct_size", mempool_stats(pool, &wide.known));
    }
    OK(mempool_detach(pool));
}

/* A pool that `attach` must refuse, in `memory`. */
static void refuses_attach(size_t len, mempool_status_t status, const char *words)
{
    mempool_t *pool = (mempool_t *)memory;
    REFUSED(status, words, mempool_attach(memory, len, NULL, &pool));
    CHECK(pool == NULL);
    mempool_stats_t s = MEMPOOL_STATS_INIT;
    REFUSED(status, words, mempool_inspect(memory, len, NULL, &s, NULL, NULL));
}

static void test_attach_refuses(void)
{
    mempool_t *pool = (mempool_t *)memory;
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "buffer", mempool_attach(nowhere, LEN, NULL, &pool));
    CHECK(pool == NULL);
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "out", mempool_attach(memory, LEN, NULL, (mempool_t **)nowhere));

    memset(memory, 0, LEN);
    refuses_attach(LEN, MEMPOOL_ERR_NOT_A_POOL, "init");
    memset(memory, 0xFF, LEN);
    refuses_attach(LEN, MEMPOOL_ERR_NOT_A_POOL, "init");
    uint64_t random = rng_seed(0);
    for (size_t i = 0; i < LEN; i++) {
        memory[i] = (unsigned char)rng_below(&random, 256);
    }
    refuses_attach(LEN, MEMPOOL_ERR_NOT_A_POOL, "init");

    pool = begin(0);
    void *block = get(pool, 100);
    refuses_attach(LEN - 1, MEMPOOL_ERR_INCOMPATIBLE, "map all of it");
    refuses_attach(LEN / 2, MEMPOOL_ERR_INCOMPATIBLE, "map all of it");
    refuses_attach(mempool_min_len(NULL), MEMPOOL_ERR_INCOMPATIBLE, "map all of it");
    for (size_t len = 0; len <= 8; len++) {
        refuses_attach(len, MEMPOOL_ERR_NOT_A_POOL, "short");
    }

    /* Elsewhere it is found at its own residue only. */
    for (size_t shift = 0; shift <= 48; shift++) {
        memcpy(elsewhere + shift, memory, LEN - 48);
        mempool_t *copy = NULL;
        mempool_options_t options = MEMPOOL_OPTIONS_INIT;
        mempool_status_t status = mempool_attach(elsewhere + shift, LEN - 48, &options, &copy);
        CHECK(status == MEMPOOL_ERR_INCOMPATIBLE && copy == NULL); /* shorter than the pool, or misplaced too */
        CHECK(shift % 16 == 0 || strstr(mempool_last_message(), "residue") != NULL);
    }

    /* Another layout version, another machine: told apart from garbage. Any other byte that was written once is
     * protected by a checksum. The numbers are those of the picture in src/layout.rs. */
    for (size_t at = 0; at < 72; at++) {
        memory[at] ^= 0x40;
        if (at < 8) {
            refuses_attach(LEN, MEMPOOL_ERR_NOT_A_POOL, "init");
        } else if (at < 16) {
            refuses_attach(LEN, MEMPOOL_ERR_INCOMPATIBLE, "another");
        } else {
            refuses_attach(LEN, MEMPOOL_ERR_CORRUPTED, "checksum");
        }
        memory[at] ^= 0x40;
    }
    mempool_t *again = attach(memory, LEN);
    CHECK(mempool_usable_size(again, block) >= 100);
    OK(mempool_detach(again));
    OK(mempool_detach(pool));
}

static void test_open(void)
{
    mempool_t *first = NULL, *second = NULL;
    bool created = false;
    memset(memory, 0, LEN);
    OK(mempool_open(memory, LEN, NULL, &first, &created));
    CHECK(created);
    void *block = get(first, 10);
    OK(mempool_open(memory, LEN, NULL, &second, &created));
    CHECK(!created);
    OK(mempool_free(second, block));
    CHECK(stats_of(first).pool_id == stats_of(second).pool_id);
    OK(mempool_detach(second));
    OK(mempool_detach(first));

    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "buffer", mempool_open(nowhere, LEN, NULL, &first, &created));
    memset(memory, 0, LEN);
    REFUSED(MEMPOOL_ERR_BUFFER_TOO_SMALL, "bytes", mempool_open(memory, 100, NULL, &first, &created));
    CHECK(first == NULL && !created && is_filled(memory, LEN, 0));
}

/* Everything that must say "not a pool" on a handle whose pool has ended, and leave the buffer as it is. */
static void test_ended(mempool_t *pool, void *block)
{
    memcpy(elsewhere, memory, LEN);
    const mempool_status_t gone = MEMPOOL_ERR_NOT_A_POOL;
    mempool_stats_t s = MEMPOOL_STATS_INIT;
    CHECK(mempool_malloc(pool, 10) == NULL && mempool_last_error() == gone);
    CHECK(mempool_calloc(pool, 10, 1) == NULL && mempool_last_error() == gone);
    CHECK(mempool_calloc_fill(pool, 10, 1, 7) == NULL && mempool_last_error() == gone);
    CHECK(mempool_aligned_alloc(pool, 64, 10) == NULL && mempool_last_error() == gone);
    CHECK(mempool_realloc(pool, block, 10) == NULL && mempool_last_error() == gone);
    CHECK(mempool_realloc_array(pool, block, 10, 1) == NULL && mempool_last_error() == gone);
    REFUSED(gone, "", mempool_expand(pool, block, 1000));
    REFUSED(gone, "", mempool_free(pool, block));
    REFUSED(gone, "", mempool_free_sized(pool, block, 100));
    REFUSED(gone, "", mempool_free_all(pool));
    REFUSED(gone, "", mempool_stats(pool, &s));
    REFUSED(gone, "", mempool_check(pool));
    REFUSED(gone, "", mempool_walk(pool, tally_visit, &(struct tally){.end = 0}));
    REFUSED(gone, "", mempool_trim(pool));
    REFUSED(gone, "", mempool_recover(pool, NULL));
    REFUSED(gone, "", mempool_release(pool));
    CHECK(mempool_usable_size(pool, block) == 0);
    CHECK(memcmp(elsewhere, memory, LEN) == 0);
}

static void test_release(void)
{
    mempool_t *pool = begin(0), *other = attach(memory, LEN);
    void *block = get(pool, 100);
    OK(mempool_release(pool));
    test_ended(pool, block);
    test_ended(other, block);
    refuses_attach(LEN, MEMPOOL_ERR_NOT_A_POOL, "init");
    OK(mempool_detach(pool)); /* a handle outlives its pool, and ends like any */
    OK(mempool_detach(other));
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "pool", mempool_release(no_pool));
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "pool", mempool_detach(no_pool));
}

/* init over a living pool makes another pool; handles of the first do not reach it. */
static void test_init_again(void)
{
    mempool_t *old = begin(0);
    void *block = get(old, 100);
    uint64_t id = stats_of(old).pool_id;
    mempool_t *pool = begin(0);
    CHECK(stats_of(pool).pool_id != id);
    mempool_stats_t fresh = check_quiet(pool);
    test_ended(old, block);
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    options.align = 64;
    mempool_t *third = new_pool(memory, LEN, &options); /* with another geometry, which no old handle may apply */
    test_ended(old, block);
    test_ended(pool, block);
    OK(mempool_detach(old));
    OK(mempool_detach(pool));
    CHECK(check_quiet(third).used_count == 0 && fresh.used_count == 0);
    OK(mempool_detach(third));
}

static void test_null_pool(void)
{
    mempool_t *none = no_pool;
    const mempool_status_t bad = MEMPOOL_ERR_INVALID_ARGUMENT;
    mempool_stats_t s = MEMPOOL_STATS_INIT;
    REFUSED_NULL(EINVAL, bad, "pool", mempool_malloc(none, 10));
    REFUSED_NULL(EINVAL, bad, "pool", mempool_calloc(none, 10, 1));
    REFUSED_NULL(EINVAL, bad, "pool", mempool_calloc_fill(none, 10, 1, 1));
    REFUSED_NULL(EINVAL, bad, "pool", mempool_aligned_alloc(none, 16, 10));
    REFUSED_NULL(EINVAL, bad, "pool", mempool_realloc(none, nowhere, 10));
    REFUSED_NULL(EINVAL, bad, "pool", mempool_realloc_array(none, nowhere, 10, 1));
    REFUSED(bad, "pool", mempool_expand(none, memory, 10));
    REFUSED(bad, "pool", mempool_free(none, memory));
    REFUSED(bad, "pool", mempool_free_sized(none, memory, 10));
    REFUSED(bad, "pool", mempool_free_all(none));
    REFUSED(bad, "pool", mempool_stats(none, &s));
    REFUSED(bad, "pool", mempool_check(none));
    REFUSED(bad, "pool", mempool_walk(none, tally_visit, NULL));
    REFUSED(bad, "pool", mempool_trim(none));
    REFUSED(bad, "pool", mempool_recover(none, NULL));
    CHECK(mempool_usable_size(none, memory) == 0 && mempool_good_size(none, 10) == 0);
    CHECK(mempool_offset(none, memory) == 0 && mempool_pointer(none, 64) == NULL);
}

/* start and end: the pool keeps to its part of the buffer, and two pools share one buffer. */
static void test_start_end(void)
{
    memset(memory, 0x3C, LEN);
    const size_t bounds[][2] = {{1, 5000}, {5000, 9001}, {9001, 70003}, {70003, 0}};
    mempool_t *pools[COUNT_OF(bounds)];
    mempool_stats_t fresh[COUNT_OF(bounds)];
    for (size_t i = 0; i < COUNT_OF(bounds); i++) {
        mempool_options_t options = MEMPOOL_OPTIONS_INIT;
        options.start = bounds[i][0];
        options.end = bounds[i][1];
        pools[i] = new_pool(memory, LEN - 100, &options);
        fresh[i] = check_quiet_from(pools[i], options.start);
        size_t end = options.end ? options.end : LEN - 100;
        CHECK(fresh[i].total == end - options.start);
        CHECK(mempool_offset(pools[i], memory + options.start - 1) == 0);
        CHECK(mempool_offset(pools[i], memory + end) == 0 && mempool_pointer(pools[i], end) == NULL);
        mempool_t *again = NULL;
        OK(mempool_attach(memory, LEN - 100, &options, &again));
        CHECK(stats_of(again).pool_id == fresh[i].pool_id);
        OK(mempool_detach(again));
    }
    unsigned char *blocks[COUNT_OF(bounds)][8];
    for (unsigned n = 0; n < 8; n++) {
        for (size_t i = 0; i < COUNT_OF(bounds); i++) {
            unsigned char *block = get(pools[i], 300);
            CHECK(block >= memory + bounds[i][0]);
            CHECK(block + 300 <= memory + (bounds[i][1] ? bounds[i][1] : LEN - 100));
            CHECK(mempool_offset(pools[i], block) == (uint64_t)(block - memory));
            stamp(block, 300, n);
            blocks[i][n] = block;
        }
    }
    for (size_t i = 0; i < COUNT_OF(bounds); i++) {
        REFUSED(MEMPOOL_ERR_FOREIGN_POINTER, "another", mempool_free(pools[i], blocks[(i + 1) % COUNT_OF(bounds)][0]));
        for (unsigned n = 0; n < 8; n++) {
            CHECK(is_stamped(blocks[i][n], 300, n));
            OK(mempool_free(pools[i], blocks[i][n]));
        }
        check_whole_from(pools[i], &fresh[i], bounds[i][0]);
        OK(mempool_detach(pools[i]));
    }
    CHECK(memory[0] == 0x3C && is_filled(memory + LEN - 100, 100, 0x3C));

    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    options.end = 10 * LEN; /* clamped */
    mempool_t *pool = new_pool(memory, LEN, &options);
    CHECK(stats_of(pool).total == LEN);
    OK(mempool_detach(pool));
}

static void test_min_len(void)
{
    size_t least = mempool_min_len(NULL);
    CHECK(least > 0 && least <= 400);
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    CHECK(mempool_min_len(&options) == least);
    options.end = 5; /* not counted */
    CHECK(mempool_min_len(&options) == least);
    options.end = 0;
    options.start = 4096; /* counted */
    CHECK(mempool_min_len(&options) == least + 4096);
    options.start = 1001;
    mempool_t *pool = new_pool(memory + 3, mempool_min_len(&options), &options);
    CHECK(mempool_malloc(pool, 1) != NULL);
    OK(mempool_detach(pool));
    options.start = SIZE_MAX - 10;
    CHECK(mempool_min_len(&options) == 0);

    /* A buffer of 4 KiB gives at least 210 blocks of 16 bytes, one of 1 KiB at least 36. */
    const size_t lens[] = {4096, 1024}, blocks[] = {210, 36};
    for (size_t i = 0; i < COUNT_OF(lens); i++) {
        pool = new_pool(memory, lens[i], NULL);
        mempool_stats_t fresh = check_quiet(pool);
        size_t count = 0;
        while (mempool_malloc(pool, 16) != NULL) {
            count++;
        }
        CHECK(count >= blocks[i]);
        CHECK(check_quiet(pool).used_count == count && free_by_walk(pool) == count);
        check_whole(pool, &fresh);
        OK(mempool_detach(pool));
    }
}

/* ---- getting blocks ---- */

static void test_malloc(void)
{
    mempool_t *pool = begin(0);
    mempool_stats_t fresh = check_quiet(pool);
    REFUSED_NULL(EINVAL, MEMPOOL_ERR_INVALID_ARGUMENT, "size", mempool_malloc(pool, zero));
    CHECK(stats_of(pool).failed_allocs == 0); /* a wrong argument is no lack of room */
    const size_t too_much[] = {LEN, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF8, 0xFFFFFFFF, 0x100000000, 0x100000010,
                               SIZE_MAX / 2, SIZE_MAX / 2 + 1, SIZE_MAX - 4096, SIZE_MAX - 15, SIZE_MAX - 7, SIZE_MAX};
    for (size_t i = 0; i < COUNT_OF(too_much); i++) {
        REFUSED_NULL(ENOMEM, MEMPOOL_ERR_OUT_OF_MEMORY, "bytes", mempool_malloc(pool, too_much[i]));
        CHECK(stats_of(pool).failed_allocs == i + 1);
    }
    check_whole(pool, &fresh);

    void *all = get(pool, fresh.largest_free); /* what largest_free says is there to be had */
    mempool_stats_t s = check_quiet(pool);
    CHECK(s.used_count == 1 && s.used_size >= fresh.largest_free && s.largest_free == 0 && s.available == 0);
    REFUSED_NULL(ENOMEM, MEMPOOL_ERR_OUT_OF_MEMORY, "bytes", mempool_malloc(pool, 1));
    OK(mempool_free(pool, all));
    check_whole(pool, &fresh);
    OK(mempool_detach(pool));
}

/* NULL means that no free run fits: however crowded and cut up the pool is, largest_free is exact. */
static void test_largest_free(void)
{
    mempool_options_t options = with_flags(MEMPOOL_NO_THREAD_CACHES);
    options.end = 128 * KIB; /* for some 300 * 3000 / 2 bytes */
    mempool_t *pool = new_pool(memory, LEN, &options);
    mempool_stats_t fresh = check_quiet(pool);
    uint64_t random = rng_seed(0);
    enum { COUNT = 300 };
    static void *blocks[COUNT];
    for (int round = 0; round < 10000; round++) {
        void **block = &blocks[rng_below(&random, COUNT)];
        if (*block) {
            OK(mempool_free(pool, *block));
            *block = NULL;
        } else {
            *block = mempool_malloc(pool, 1 + rng_below(&random, 3000));
        }
        if (round % 4 == 0) {
            uint64_t largest = stats_of(pool).largest_free;
            REFUSED_NULL(ENOMEM, MEMPOOL_ERR_OUT_OF_MEMORY, "bytes", mempool_malloc(pool, largest + 1));
            if (largest > 0) {
                void *it = get(pool, largest);
                CHECK(mempool_usable_size(pool, it) >= largest);
                OK(mempool_free(pool, it));
            }
        }
    }
    check_quiet(pool);
    for (size_t i = 0; i < COUNT; i++) {
        OK(mempool_free(pool, blocks[i])); /* NULL is OK */
    }
    check_whole(pool, &fresh);
    OK(mempool_detach(pool));
}

/* Of many free blocks of nearly one size, in a pool that is full but for them, the one that fits is found wherever it
 * stands in its list. */
static void test_exact_fit(void)
{
    enum { COUNT = 24 };
    for (size_t largest = 0; largest < COUNT; largest++) {
        mempool_t *pool = begin(MEMPOOL_NO_THREAD_CACHES);
        mempool_stats_t fresh = check_quiet(pool);
        void *blocks[COUNT];
        for (size_t i = 0; i < COUNT; i++) {
            blocks[i] = get(pool, i == largest ? 2016 : 2000);
            get(pool, 16); /* keeps them apart */
        }
        while (mempool_malloc(pool, 16) != NULL) { /* to the brim */
        }
        for (size_t i = 0; i < COUNT; i++) {
            OK(mempool_free(pool, blocks[i]));
        }
        mempool_stats_t s = check_quiet(pool);
        CHECK(s.free_count == COUNT && s.largest_free == 2016);
        REFUSED_NULL(ENOMEM, MEMPOOL_ERR_OUT_OF_MEMORY, "bytes", mempool_malloc(pool, 2017));
        CHECK(mempool_malloc(pool, 2016) == blocks[largest]);
        for (size_t i = 1; i < COUNT; i++) {
            CHECK(mempool_malloc(pool, 2000) != NULL);
        }
        CHECK(mempool_malloc(pool, 1) == NULL && check_quiet(pool).available < 16);
        free_by_walk(pool);
        check_whole(pool, &fresh);
        OK(mempool_detach(pool));
    }
}

static void test_calloc(void)
{
    mempool_t *pool = begin(0);
    mempool_stats_t fresh = check_quiet(pool);
    for (size_t size = 1; size < 2000; size += 13) {
        void *dirty = get(pool, size);
        memset(dirty, 0xDD, mempool_usable_size(pool, dirty));
        OK(mempool_free(pool, dirty));
        unsigned char *block = mempool_calloc(pool, 1, size);
        CHECK(block != NULL && is_filled(block, size, 0));
        memset(block, 0x11, mempool_usable_size(pool, block));
        OK(mempool_free(pool, block));

        /* The requested bytes and not one more: neither in the block's rounding nor beyond. */
        block = mempool_calloc_fill(pool, size, 1, 0x177); /* an int, of which a byte counts, as in memset */
        CHECK(block != NULL && is_filled(block, size, 0x77));
        size_t usable = mempool_usable_size(pool, block);
        for (size_t i = size < 64 ? 64 : size; i < usable; i++) { /* free blocks may keep links in their first bytes */
            CHECK(block[i] != 0x77);
        }
        OK(mempool_free(pool, block));
    }
    /* A neighbour is not touched. */
    unsigned char *left = get(pool, 16), *middle = get(pool, 16), *right = get(pool, 16);
    stamp(left, 16, 1);
    stamp(right, 16, 2);
    OK(mempool_free(pool, middle));
    middle = mempool_calloc_fill(pool, 4, 4, 0xFF);
    CHECK(middle != NULL && is_filled(middle, 16, 0xFF) && is_stamped(left, 16, 1) && is_stamped(right, 16, 2));
    OK(mempool_free(pool, left));
    OK(mempool_free(pool, middle));
    OK(mempool_free(pool, right));

    const size_t over[][2] = {{SIZE_MAX, 2}, {2, SIZE_MAX}, {SIZE_MAX, SIZE_MAX}, {(size_t)1 << 33, (size_t)1 << 33},
                              {SIZE_MAX / 16 + 2, 16}, {1, SIZE_MAX}, {LEN, 1}, {LEN / 8, 9}};
    for (size_t i = 0; i < COUNT_OF(over); i++) {
        REFUSED_NULL(ENOMEM, MEMPOOL_ERR_OUT_OF_MEMORY, "", mempool_calloc(pool, over[i][0], over[i][1]));
        REFUSED_NULL(ENOMEM, MEMPOOL_ERR_OUT_OF_MEMORY, "", mempool_calloc_fill(pool, over[i][0], over[i][1], 1));
        REFUSED_NULL(ENOMEM, MEMPOOL_ERR_OUT_OF_MEMORY, "",
                     mempool_realloc_array(pool, nowhere, over[i][0], over[i][1]));
    }
    REFUSED_NULL(EINVAL, MEMPOOL_ERR_INVALID_ARGUMENT, "size", mempool_calloc(pool, zero, 8));
    REFUSED_NULL(EINVAL, MEMPOOL_ERR_INVALID_ARGUMENT, "size", mempool_calloc(pool, 8, zero));
    REFUSED_NULL(EINVAL, MEMPOOL_ERR_INVALID_ARGUMENT, "size", mempool_calloc_fill(pool, zero, zero, 1));
    check_whole(pool, &fresh);
    OK(mempool_detach(pool));
}

static void test_aligned_alloc(void)
{
    mempool_t *pool = begin(0);
    mempool_stats_t fresh = check_quiet(pool);
    enum { ROUNDS = 3 };
    void *blocks[13 * ROUNDS];
    size_t count = 0;
    for (int round = 0; round < ROUNDS; round++) {
        for (size_t alignment = 1; alignment <= 4096; alignment *= 2) {
            void *block = mempool_aligned_alloc(pool, alignment, 33);
            CHECK(block != NULL && (uintptr_t)block % alignment == 0 && (uintptr_t)block % 16 == 0);
            CHECK(mempool_usable_size(pool, block) >= 33);
            stamp(block, 33, (unsigned)count);
            blocks[count++] = block;
        }
        check_quiet(pool);
    }
    CHECK(stats_of(pool).used_count == count);
    for (size_t i = 0; i < count; i++) {
        CHECK(is_stamped(blocks[i], 33, (unsigned)i));
        blocks[i] = mempool_realloc(pool, blocks[i], 50);
        CHECK(blocks[i] != NULL && is_stamped(blocks[i], 33, (unsigned)i) && (uintptr_t)blocks[i] % 16 == 0);
    }
    for (size_t i = 0; i < count; i++) {
        OK(mempool_free(pool, blocks[i]));
    }
    check_whole(pool, &fresh);

    const size_t bad[] = {0, 3, 12, 4095, SIZE_MAX};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        REFUSED_NULL(EINVAL, MEMPOOL_ERR_INVALID_ARGUMENT, "alignment", mempool_aligned_alloc(pool, bad[i], 16));
    }
    REFUSED_NULL(EINVAL, MEMPOOL_ERR_INVALID_ARGUMENT, "size", mempool_aligned_alloc(pool, 16, zero));
    REFUSED_NULL(ENOMEM, MEMPOOL_ERR_OUT_OF_MEMORY, "", mempool_aligned_alloc(pool, 16, huge));
    REFUSED_NULL(ENOMEM, MEMPOOL_ERR_OUT_OF_MEMORY, "", mempool_aligned_alloc(pool, 4096, LEN));
    REFUSED_NULL(ENOMEM, MEMPOOL_ERR_OUT_OF_MEMORY, "", mempool_aligned_alloc(pool, SIZE_MAX / 2 + 1, 1));
    check_whole(pool, &fresh);
    OK(mempool_detach(pool));
}

/* ---- resizing ---- */

static void test_realloc_in_place(void)
{
    mempool_t *pool = begin(MEMPOOL_NO_THREAD_CACHES);
    mempool_stats_t fresh = check_quiet(pool);

    /* The only block: into top and back. */
    unsigned char *a = get(pool, 100);
    stamp(a, 100, 1);
    CHECK(mempool_realloc(pool, a, 10000) == a && is_stamped(a, 100, 1));
    CHECK(mempool_usable_size(pool, a) >= 10000 && check_quiet(pool).used_count == 1);
    CHECK(mempool_realloc(pool, a, 50) == a && is_stamped(a, 50, 1));
    mempool_stats_t s = check_quiet(pool);
    CHECK(s.used_size == mempool_usable_size(pool, a) && s.used_size < 100 && s.free_count == 0);

    /* Into a free right neighbour, part of it and all of it, and the rest is given back. */
    size_t small = rounded(pool, 100);
    unsigned char *b = get(pool, 1000), *c = get(pool, 100);
    stamp(c, 100, 3);
    OK(mempool_free(pool, b));
    CHECK(mempool_realloc(pool, a, 500) == a && is_stamped(a, 50, 1));
    CHECK(check_quiet(pool).free_count == 1);
    size_t whole = (size_t)(c - a);
    CHECK(mempool_realloc(pool, a, whole) == a && mempool_usable_size(pool, a) == whole);
    s = check_quiet(pool);
    CHECK(s.free_count == 0 && s.used_count == 2 && s.used_size == whole + small);
    CHECK(mempool_realloc(pool, a, 50) == a && check_quiet(pool).free_count == 1);
    CHECK(is_stamped(a, 50, 1) && is_stamped(c, 100, 3));

    /* Same size, or less than it has: nothing moves. */
    size_t usable = mempool_usable_size(pool, a);
    for (size_t size = 50; size <= usable; size++) {
        CHECK(mempool_realloc(pool, a, size) == a && mempool_usable_size(pool, a) == usable);
    }

    /* Boxed in: it moves with its bytes, and its old place is free. */
    CHECK(mempool_realloc(pool, a, whole) == a);
    stamp(a, whole, 4);
    unsigned char *moved = mempool_realloc(pool, a, whole + 1);
    CHECK(moved != NULL && moved != a && is_stamped(moved, whole, 4));
    CHECK(mempool_usable_size(pool, a) == 0 && check_quiet(pool).used_count == 2);
    REFUSED(MEMPOOL_ERR_NOT_ALLOCATED, "offset", mempool_free(pool, a));
    OK(mempool_free(pool, c));
    OK(mempool_free(pool, moved));
    check_whole(pool, &fresh);
    OK(mempool_detach(pool));
}

static void test_realloc_refuses(void)
{
    mempool_t *pool = begin(0);
    mempool_stats_t fresh = check_quiet(pool);
    char *block = get(pool, 100), *fence = get(pool, 100);
    stamp(block, 100, 1);
    REFUSED_NULL(EINVAL, MEMPOOL_ERR_INVALID_ARGUMENT, "size", mempool_realloc(pool, block, zero));
    REFUSED_NULL(EINVAL, MEMPOOL_ERR_INVALID_ARGUMENT, "size", mempool_realloc(pool, nowhere, zero));
    REFUSED_NULL(EINVAL, MEMPOOL_ERR_INVALID_ARGUMENT, "size", mempool_realloc_array(pool, block, zero, 10));
    const size_t too_much[] = {LEN, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x100000000, SIZE_MAX - 15, SIZE_MAX};
    for (size_t i = 0; i < COUNT_OF(too_much); i++) {
        REFUSED_NULL(ENOMEM, MEMPOOL_ERR_OUT_OF_MEMORY, "", mempool_realloc(pool, block, too_much[i]));
        REFUSED_NULL(ENOMEM, MEMPOOL_ERR_OUT_OF_MEMORY, "", mempool_realloc_array(pool, block, too_much[i], 1));
        REFUSED_NULL(ENOMEM, MEMPOOL_ERR_OUT_OF_MEMORY, "", mempool_realloc_array(pool, block, too_much[i], SIZE_MAX));
        REFUSED(MEMPOOL_ERR_OUT_OF_MEMORY, "", mempool_expand(pool, block, too_much[i]));
    }
    REFUSED_NULL(EINVAL, MEMPOOL_ERR_NOT_ALLOCATED, "offset", mempool_realloc(pool, block + 16, 50));
    REFUSED_NULL(EINVAL, MEMPOOL_ERR_NOT_ALLOCATED, "offset", mempool_realloc(pool, block + 1, 50));
    REFUSED_NULL(EINVAL, MEMPOOL_ERR_FOREIGN_POINTER, "outside", mempool_realloc(pool, elsewhere, 50));
    REFUSED_NULL(EINVAL, MEMPOOL_ERR_FOREIGN_POINTER, "outside", mempool_realloc_array(pool, elsewhere, 50, 1));
    REFUSED(MEMPOOL_ERR_NOT_ALLOCATED, "offset", mempool_expand(pool, block + 16, 50));
    REFUSED(MEMPOOL_ERR_FOREIGN_POINTER, "outside", mempool_expand(pool, elsewhere, 50));
    REFUSED(MEMPOOL_ERR_FOREIGN_POINTER, "outside", mempool_expand(pool, nowhere, 50));
    CHECK(is_stamped(block, 100, 1) && check_quiet(pool).used_count == 2);
    OK(mempool_free(pool, fence));
    OK(mempool_free(pool, block));
    REFUSED_NULL(EINVAL, MEMPOOL_ERR_NOT_ALLOCATED, "free", mempool_realloc(pool, block, 50));
    check_whole(pool, &fresh);
    OK(mempool_detach(pool));
}

static void test_expand(void)
{
    mempool_t *pool = begin(MEMPOOL_NO_THREAD_CACHES);
    mempool_stats_t fresh = check_quiet(pool);
    unsigned char *block = get(pool, 10);
    stamp(block, 10, 1);
    size_t usable = mempool_usable_size(pool, block);
    OK(mempool_expand(pool, block, 1));
    OK(mempool_expand(pool, block, usable));
    CHECK(mempool_usable_size(pool, block) == usable); /* never less */

    /* Exactly to the region's end, and not one byte further. */
    mempool_stats_t s = check_quiet(pool);
    size_t most = usable + s.largest_free;
    REFUSED(MEMPOOL_ERR_OUT_OF_MEMORY, "bytes", mempool_expand(pool, block, most + 1));
    CHECK(mempool_usable_size(pool, block) == usable);
    OK(mempool_expand(pool, block, most));
    CHECK(mempool_usable_size(pool, block) == most && is_stamped(block, 10, 1));
    s = check_quiet(pool);
    CHECK(s.available == 0 && s.top == s.total);
    memset(block, 0x55, most);
    OK(mempool_free(pool, block));
    check_whole(pool, &fresh);

    /* Into a free neighbour; a live one is in the way. */
    block = get(pool, 100);
    unsigned char *next = get(pool, 500), *fence = get(pool, 100);
    REFUSED(MEMPOOL_ERR_OUT_OF_MEMORY, "bytes", mempool_expand(pool, block, 400));
    OK(mempool_free(pool, next));
    OK(mempool_expand(pool, block, 400));
    REFUSED(MEMPOOL_ERR_OUT_OF_MEMORY, "bytes", mempool_expand(pool, block, (size_t)(fence - block) + 1));
    OK(mempool_expand(pool, block, (size_t)(fence - block)));
    CHECK(check_quiet(pool).free_count == 0);
    OK(mempool_free(pool, fence));
    OK(mempool_free(pool, block));
    check_whole(pool, &fresh);
    OK(mempool_detach(pool));
}

/* ---- giving blocks back ---- */

/* A bad pointer: refused with this status by every call that takes one, counted, and nothing else changes. */
static void refuses_free(mempool_t *pool, void *block, mempool_status_t status, const char *words)
{
    mempool_stats_t before = check_quiet(pool);
    REFUSED(status, words, mempool_free(pool, block));
    REFUSED(status, words, mempool_free_sized(pool, block, 16));
    CHECK(mempool_usable_size(pool, block) == 0);
    mempool_stats_t after = check_quiet(pool);
    CHECK(after.rejected_frees == before.rejected_frees + 2);
    after.rejected_frees = before.rejected_frees;
    CHECK(memcmp(&before, &after, sizeof before) == 0);
}

static void test_bad_frees(void)
{
    mempool_t *pool = begin(0);
    mempool_stats_t fresh = check_quiet(pool);
    mempool_t *other = new_pool(elsewhere, LEN, NULL);
    char *a = get(pool, 1000), *b = get(pool, 16), *theirs = get(other, 16), *top;
    int local = 0;

    OK(mempool_free(pool, NULL));
    OK(mempool_free_sized(pool, NULL, 16));
    CHECK(stats_of(pool).rejected_frees == 0);
    for (ptrdiff_t i = 1; i < 1000; i += 3) { /* inside, at every alignment */
        refuses_free(pool, a + i, MEMPOOL_ERR_NOT_ALLOCATED, "offset");
    }
    refuses_free(pool, a + 16, MEMPOOL_ERR_NOT_ALLOCATED, "offset");
    refuses_free(pool, theirs, MEMPOOL_ERR_FOREIGN_POINTER, "another");
    refuses_free(pool, &local, MEMPOOL_ERR_FOREIGN_POINTER, "another");
    refuses_free(pool, (void *)(uintptr_t)test_bad_frees, MEMPOOL_ERR_FOREIGN_POINTER, "another");
    refuses_free(pool, memory, MEMPOOL_ERR_FOREIGN_POINTER, "another"); /* the header is no block */
    refuses_free(pool, memory + LEN, MEMPOOL_ERR_FOREIGN_POINTER, "another");
    refuses_free(pool, (void *)(uintptr_t)1, MEMPOOL_ERR_FOREIGN_POINTER, "another");
    refuses_free(pool, (void *)UINTPTR_MAX, MEMPOOL_ERR_FOREIGN_POINTER, "another");
    top = mempool_pointer(pool, stats_of(pool).top);
    refuses_free(pool, top, MEMPOOL_ERR_NOT_ALLOCATED, "offset"); /* never handed out yet */
    refuses_free(pool, memory + LEN - 16, MEMPOOL_ERR_NOT_ALLOCATED, "offset");

    OK(mempool_free(pool, a));
    refuses_free(pool, a, MEMPOOL_ERR_NOT_ALLOCATED, "free");
    refuses_free(pool, a + 16, MEMPOOL_ERR_NOT_ALLOCATED, "offset");
    char expected[32];
    snprintf(expected, sizeof expected, "offset %" PRIu64, mempool_offset(pool, a));
    REFUSED(MEMPOOL_ERR_NOT_ALLOCATED, expected, mempool_free(pool, a)); /* it says where */
    OK(mempool_free(pool, b));
    refuses_free(pool, b, MEMPOOL_ERR_NOT_ALLOCATED, "offset");
    check_whole(pool, &fresh);
    OK(mempool_free(other, theirs));
    OK(mempool_detach(other));
    OK(mempool_detach(pool));
}

static void test_free_sized(void)
{
    mempool_t *pool = begin(0);
    mempool_stats_t fresh = check_quiet(pool);
    for (size_t size = 1; size < 3000; size += size < 40 ? 1 : 97) {
        void *block = get(pool, size);
        stamp(block, size, 1);
        size_t usable = mempool_usable_size(pool, block);
        REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "bytes", mempool_free_sized(pool, block, usable + 1));
        REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "", mempool_free_sized(pool, block, huge));
        REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "", mempool_free_sized(pool, block, zero));
        if (size > 100) {
            REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "bytes", mempool_free_sized(pool, block, size / 2));
        }
        CHECK(is_stamped(block, size, 1) && mempool_usable_size(pool, block) == usable);
        OK(mempool_free_sized(pool, block, size));
    }
    check_whole(pool, &fresh);
    OK(mempool_detach(pool));
}

static void test_free_all(void)
{
    const uint32_t flags[] = {0, MEMPOOL_NO_COMPACT, MEMPOOL_NO_SPLIT, MEMPOOL_NO_COMPACT | MEMPOOL_NO_SPLIT};
    for (size_t i = 0; i < COUNT_OF(flags); i++) {
        mempool_t *pool = begin(flags[i]);
        mempool_stats_t fresh = check_quiet(pool);
        OK(mempool_free_all(pool)); /* of an empty pool */
        char *blocks[50];
        for (size_t k = 0; k < COUNT_OF(blocks); k++) {
            blocks[k] = get(pool, 1 + 37 * k);
        }
        for (size_t k = 0; k < COUNT_OF(blocks); k += 3) {
            OK(mempool_free(pool, blocks[k]));
        }
        CHECK(mempool_malloc(pool, LEN) == NULL);
        REFUSED(MEMPOOL_ERR_NOT_ALLOCATED, "", mempool_free(pool, blocks[1] + 1));
        OK(mempool_free_all(pool));
        mempool_stats_t s = check_quiet(pool);
        CHECK(s.failed_allocs == 1 && s.rejected_frees == 1); /* they stay */
        check_whole(pool, &fresh);
        for (size_t k = 0; k < COUNT_OF(blocks); k++) {
            REFUSED(MEMPOOL_ERR_NOT_ALLOCATED, "", mempool_free(pool, blocks[k]));
        }
        void *all = get(pool, fresh.largest_free);
        OK(mempool_free(pool, all));
        OK(mempool_detach(pool));
    }
}

/* ---- asking ---- */

static void test_sizes(void)
{
    const size_t aligns[] = {8, 16, 64, 4096};
    for (size_t i = 0; i < COUNT_OF(aligns); i++) {
        mempool_options_t options = MEMPOOL_OPTIONS_INIT;
        options.align = aligns[i];
        mempool_t *pool = new_pool(memory, LEN, &options);
        mempool_stats_t fresh = check_quiet(pool);
        size_t last = 0;
        for (size_t size = 1; size < 9000; size += size < 1200 ? 1 : 31) {
            size_t good = mempool_good_size(pool, size), exact = (size + aligns[i] - 1) / aligns[i] * aligns[i];
            CHECK(good >= exact && good % aligns[i] == 0 && good >= last);
            /* Rounded by an eighth at most, and not at all to 32 granules: 512 bytes at align 16. */
            CHECK(good <= exact + exact / 8 && (size > 32 * aligns[i] || good == exact));
            CHECK(mempool_good_size(pool, good) == good);
            void *block = get(pool, size);
            CHECK(mempool_usable_size(pool, block) == good);
            CHECK(stats_of(pool).used_size == good);
            memset(block, 0xEE, good); /* all of it may be used */
            OK(mempool_free(pool, block));
            last = good;
        }
        CHECK(mempool_good_size(pool, 0) == 0);
        CHECK(mempool_good_size(pool, huge) == 0 && mempool_good_size(pool, LEN) == 0); /* no malloc gives that */
        CHECK(mempool_usable_size(pool, NULL) == 0 && mempool_usable_size(pool, elsewhere) == 0);
        check_whole(pool, &fresh);
        OK(mempool_detach(pool));
    }
}

static void test_offsets(void)
{
    mempool_t *pool = begin(0);
    unsigned char *block = get(pool, 100);
    for (size_t i = 0; i < 100; i += 9) { /* interior pointers too */
        uint64_t offset = mempool_offset(pool, block + i);
        CHECK(offset == (uint64_t)(block + i - memory) && mempool_pointer(pool, offset) == block + i);
    }
    CHECK(mempool_offset(pool, NULL) == 0 && mempool_pointer(pool, 0) == NULL);
    CHECK(mempool_offset(pool, memory + LEN) == 0 && mempool_offset(pool, elsewhere) == 0);
    CHECK(mempool_pointer(pool, LEN) == NULL && mempool_pointer(pool, LEN + 1) == NULL);
    CHECK(mempool_pointer(pool, UINT64_MAX) == NULL && mempool_pointer(pool, (uint64_t)1 << 63) == NULL);
    CHECK(mempool_pointer(pool, LEN - 1) == memory + LEN - 1);
    OK(mempool_detach(pool));
}

static void test_stats(void)
{
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    options.align = 32;
    options.flags = MEMPOOL_NO_THREAD_CACHES;
    mempool_t *pool = new_pool(memory, LEN, &options);
    mempool_stats_t fresh = check_quiet(pool);
    CHECK(fresh.total == LEN && fresh.align == 32 && fresh.pool_id != 0);
    CHECK(fresh.used_count == 0 && fresh.used_size == 0 && fresh.free_count == 0 && fresh.cached_count == 0);
    CHECK(fresh.top == fresh.overhead && fresh.available == LEN - fresh.overhead);
    CHECK(fresh.rejected_frees == 0 && fresh.failed_allocs == 0 && fresh.recoveries == 0);
    CHECK(fresh.thread_caches == 0 && fresh.max_threads == 0);

    void *a = get(pool, 100), *b = get(pool, 200), *c = get(pool, 300);
    size_t sizes[3] = {mempool_usable_size(pool, a), mempool_usable_size(pool, b), mempool_usable_size(pool, c)};
    mempool_stats_t s = check_quiet(pool);
    CHECK(s.used_count == 3 && s.used_size == sizes[0] + sizes[1] + sizes[2]);
    CHECK(s.top == fresh.top + s.used_size && s.free_count == 0 && s.overhead == fresh.overhead);
    OK(mempool_free(pool, b));
    s = check_quiet(pool);
    CHECK(s.used_count == 2 && s.free_count == 1 && s.free_size == sizes[1]);
    CHECK(s.available == fresh.available - sizes[0] - sizes[2]);
    OK(mempool_free(pool, a));
    s = check_quiet(pool);
    CHECK(s.free_count == 1 && s.free_size == sizes[0] + sizes[1]); /* merged */
    OK(mempool_free(pool, c));
    check_whole(pool, &fresh); /* and top is back */
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "", mempool_stats(pool, (mempool_stats_t *)nowhere));

    options.max_threads = 7;
    mempool_t *again = new_pool(memory, LEN, &options);
    CHECK(stats_of(again).max_threads == 0); /* none is none */
    OK(mempool_detach(again));
    OK(mempool_detach(pool));
}

/* ---- thread caches ---- */

static uint64_t max_threads(size_t len, uint32_t flags, uint32_t wanted)
{
    mempool_options_t options = with_flags(flags);
    options.max_threads = wanted;
    mempool_t *pool = new_pool(memory, len, &options);
    mempool_stats_t s = check_quiet(pool);
    CHECK(s.thread_caches == 0 && s.cached_count == 0); /* claimed when they are needed */
    CHECK(s.overhead < LEN / 8);
    void *block = get(pool, 100);
    CHECK(check_quiet(pool).thread_caches == (s.max_threads > 0 ? 1 : 0));
    OK(mempool_free(pool, block));
    CHECK((check_quiet(pool).cached_count > 0) == (s.max_threads > 0));
    check_whole(pool, &s);
    OK(mempool_detach(pool));
    return s.max_threads;
}

static void test_max_threads(void)
{
    CHECK(max_threads(LEN, 0, 0) > 0);
    CHECK(max_threads(LEN, 0, 1) == 1 && max_threads(LEN, 0, 7) == 7);
    CHECK(max_threads(LEN, 0, UINT32_MAX) >= 1); /* as many as there is room for */
    CHECK(max_threads(LEN, MEMPOOL_NO_THREAD_CACHES, 0) == 0);
    CHECK(max_threads(LEN, MEMPOOL_NO_THREAD_CACHES, 7) == 0);
    CHECK(max_threads(32 * KIB, 0, 0) == 0 && max_threads(4 * KIB, 0, 7) == 0); /* too small for any */
    /* These say what becomes of every block that is freed: nothing may hold it back. */
    mempool_options_t options = with_flags(MEMPOOL_NO_COMPACT);
    mempool_t *pool = new_pool(memory, LEN, &options);
    CHECK(stats_of(pool).max_threads == 0);
    OK(mempool_detach(pool));
    options = with_flags(MEMPOOL_NO_SPLIT);
    pool = new_pool(memory, LEN, &options);
    CHECK(stats_of(pool).max_threads == 0);
    OK(mempool_detach(pool));
}

struct states {
    uint64_t offset;
    uint32_t state; /* of the block at the offset */
};

static bool state_visit(const mempool_block_t *block, void *context)
{
    struct states *states = context;
    if (block->offset != states->offset) {
        return true;
    }
    states->state = block->state;
    return false;
}

static uint32_t state_of(mempool_t *pool, void *block)
{
    struct states states = {mempool_offset(pool, block), UINT32_MAX};
    OK(mempool_walk(pool, state_visit, &states));
    return states.state;
}

/* A freed block stays with its thread, says so, and is nobody's. */
static void test_cached(void)
{
    mempool_t *pool = begin(0);
    mempool_stats_t fresh = check_quiet(pool);
    char *block = get(pool, 100);
    mempool_stats_t s = check_quiet(pool);
    CHECK(s.used_count == 1 && s.used_size == 112 && s.thread_caches == 1); /* what came with it is not used */
    CHECK(state_of(pool, block) == MEMPOOL_BLOCK_LIVE);
    CHECK(s.available == fresh.available - 112);
    uint64_t cached = s.cached_count;

    OK(mempool_free(pool, block));
    s = check_quiet(pool);
    CHECK(s.used_count == 0 && s.used_size == 0 && s.available == fresh.available);
    CHECK(s.cached_count == cached + 1 && s.cached_size == 112 * s.cached_count && s.free_count == 0);
    CHECK(state_of(pool, block) == MEMPOOL_BLOCK_CACHED);
    CHECK(s.top == fresh.top + s.cached_size);
    refuses_free(pool, block, MEMPOOL_ERR_NOT_ALLOCATED, "free");
    REFUSED_NULL(EINVAL, MEMPOOL_ERR_NOT_ALLOCATED, "free", mempool_realloc(pool, block, 50));
    REFUSED_NULL(EINVAL, MEMPOOL_ERR_NOT_ALLOCATED, "free", mempool_realloc(pool, block, LEN));
    REFUSED(MEMPOOL_ERR_NOT_ALLOCATED, "free", mempool_expand(pool, block, 50));
    CHECK(get(pool, 100) == block); /* the last one freed is the first one back */

    OK(mempool_trim(pool));
    s = check_quiet(pool);
    CHECK(s.cached_count == 0 && s.cached_size == 0 && s.used_count == 1);
    CHECK(state_of(pool, block) == MEMPOOL_BLOCK_LIVE);
    OK(mempool_free(pool, block));
    CHECK(check_quiet(pool).cached_count == 1);
    OK(mempool_trim(pool));
    s = check_quiet(pool);
    CHECK(s.cached_count == 0 && s.top == fresh.top && s.largest_free == fresh.largest_free);
    check_whole(pool, &fresh);
    OK(mempool_detach(pool));
}

/* Blocks that caches hold stand in nobody's way: when no other will do, they are given back. */
static void test_pressure(void)
{
    mempool_t *pool = begin(0);
    mempool_stats_t fresh = check_quiet(pool);
    static void *blocks[LEN / 16];
    for (size_t size = 16; size < 3000; size = size * 3 / 2) {
        size_t count = 0, bytes = 0;
        while ((blocks[count] = mempool_malloc(pool, size)) != NULL) {
            bytes += mempool_usable_size(pool, blocks[count++]);
        }
        CHECK(mempool_last_error() == MEMPOOL_ERR_OUT_OF_MEMORY);
        CHECK(check_quiet(pool).used_size == bytes);
        CHECK(fresh.available - bytes < size + 16); /* to the last block */
        for (size_t i = 0; i < count; i++) {
            OK(mempool_free(pool, blocks[i]));
        }
        mempool_stats_t s = check_quiet(pool);
        CHECK(s.cached_size <= LEN / 8 && s.available == fresh.available);
        void *all = get(pool, fresh.largest_free);
        CHECK(check_quiet(pool).cached_count == 0);
        OK(mempool_free(pool, all));
        check_whole(pool, &fresh);
    }
    OK(mempool_detach(pool));
}

struct visitor {
    mempool_t *pool;
    bool detaches;
    uint64_t caches; /* in use while it is there */
};

static void *visit_pool(void *context)
{
    struct visitor *visitor = context;
    mempool_t *pool = visitor->detaches ? attach(memory, LEN) : visitor->pool;
    void *blocks[20];
    for (size_t i = 0; i < COUNT_OF(blocks); i++) {
        blocks[i] = get(pool, 30 * (i + 1));
    }
    for (size_t i = 0; i < COUNT_OF(blocks); i++) {
        OK(mempool_free(pool, blocks[i]));
    }
    visitor->caches = stats_of(pool).thread_caches;
    if (visitor->detaches) {
        OK(mempool_detach(pool));
    }
    return NULL;
}

/* Caches come back from handles that are detached and threads that end. */
static void test_caches_end(void)
{
    mempool_t *pool = begin(0);
    mempool_stats_t fresh = check_quiet(pool);
    OK(mempool_free(pool, get(pool, 100)));
    CHECK(stats_of(pool).thread_caches == 1);

    mempool_t *other = attach(memory, LEN);
    OK(mempool_free(other, get(other, 200)));
    CHECK(stats_of(pool).thread_caches == 2); /* one for each handle that a thread uses */
    void *kept = get(other, 300);
    OK(mempool_detach(other));
    mempool_stats_t s = check_quiet(pool);
    CHECK(s.thread_caches == 1 && s.used_count == 1);
    CHECK(mempool_usable_size(pool, kept) >= 300);
    OK(mempool_free(pool, kept));

    for (int round = 0; round < 4; round++) {
        struct visitor visitor = {.pool = pool, .detaches = round % 2};
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, visit_pool, &visitor) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
        CHECK(visitor.caches == 2);
        OK(mempool_recover(pool, NULL));
        s = check_quiet(pool);
        CHECK(s.thread_caches == 1 && s.used_count == 0 && s.recoveries == 0); /* nobody died */
    }
    check_whole(pool, &fresh);

    /* What another thread's cache holds, trim leaves alone only while the thread lives. */
    struct visitor visitor = {.pool = pool};
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, visit_pool, &visitor) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    OK(mempool_trim(pool));
    s = check_quiet(pool);
    CHECK(s.cached_count == 0 && s.top == fresh.top);
    OK(mempool_detach(pool));

    /* The last to leave leaves a whole pool: the next one finds no cache, and trims what is in the depot. */
    pool = attach(memory, LEN);
    CHECK(stats_of(pool).thread_caches == 0 && stats_of(pool).used_count == 0);
    check_whole(pool, &fresh);
    OK(mempool_detach(pool));
}

/* More threads than caches: all are served. */
static void test_too_few_caches(void)
{
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    options.max_threads = 1;
    mempool_t *pool = new_pool(memory, LEN, &options);
    mempool_stats_t fresh = check_quiet(pool);
    OK(mempool_free(pool, get(pool, 100)));
    struct visitor visitor = {.pool = pool};
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, visit_pool, &visitor) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(visitor.caches == 1);
    check_whole(pool, &fresh);
    OK(mempool_detach(pool));
}

/* Sizes are rounded to classes where there are caches and memory is not short; mempool_good_size says to which. */
static void test_good_size(void)
{
    const size_t sizes[][2] = {{1, 16}, {17, 32}, {512, 512}, {513, 576}, {576, 576}, {577, 640}, {1024, 1024},
                               {1025, 1152}, {2049, 2304}, {8193, 9216}, {60000, 61440}};
    mempool_t *pool = begin(0);
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        CHECK(mempool_good_size(pool, sizes[i][0]) <= sizes[i][1]); /* the largest classes need a large pool */
        CHECK(sizes[i][0] > 2000 || mempool_good_size(pool, sizes[i][0]) == sizes[i][1]);
        void *block = get(pool, sizes[i][0]);
        CHECK(mempool_usable_size(pool, block) == mempool_good_size(pool, sizes[i][0]));
        OK(mempool_free_sized(pool, block, sizes[i][0]));
    }
    /* With hardly anything left, no byte is given away. */
    OK(mempool_trim(pool));
    void *most = get(pool, stats_of(pool).largest_free / 8 * 7);
    for (size_t size = 513; size < 2000; size += 100) {
        void *block = get(pool, size);
        CHECK(mempool_usable_size(pool, block) == (size + 15) / 16 * 16);
        OK(mempool_free_sized(pool, block, size));
    }
    OK(mempool_free(pool, most));
    OK(mempool_detach(pool));

    const size_t lens[] = {LEN, 32 * KIB};
    for (size_t i = 0; i < COUNT_OF(lens); i++) { /* without caches: exactly */
        mempool_options_t options = with_flags(i == 0 ? MEMPOOL_NO_THREAD_CACHES : 0);
        pool = new_pool(memory, lens[i], &options);
        for (size_t size = 1; size < 9000; size += 7) {
            size_t exact = (size + 15) / 16 * 16;
            CHECK(mempool_good_size(pool, size) == exact && rounded(pool, size) == exact);
        }
        OK(mempool_detach(pool));
    }
}

/* A large block that grows gets some room to grow again, an eighth at most; one that is new or shrinks gets none. */
static void test_room_to_grow(void)
{
    static unsigned char large[4 * MIB];
    mempool_t *pool = new_pool(large, sizeof large, NULL);
    mempool_stats_t fresh = check_quiet(pool);
    unsigned char *block = get(pool, 100000), *fence = get(pool, 100000);
    CHECK(mempool_usable_size(pool, block) == 100000);
    stamp(block, 100000, 1);
    size_t moves = 0;
    for (size_t size = 100000; size < 1000000; size += 5000) {
        unsigned char *moved = mempool_realloc(pool, block, size);
        CHECK(moved != NULL && is_stamped(moved, 100000, 1));
        size_t usable = mempool_usable_size(pool, moved);
        CHECK(usable >= size && usable <= size + size / 8 + 16);
        moves += moved != block;
        block = moved;
    }
    CHECK(moves < 180);
    block = mempool_realloc(pool, block, 200000);
    CHECK(block != NULL && is_stamped(block, 100000, 1));
    CHECK(mempool_usable_size(pool, block) <= 225000 + 16);
    OK(mempool_free_sized(pool, block, 200000));
    OK(mempool_free_sized(pool, fence, 100000));
    check_whole(pool, &fresh);
    OK(mempool_detach(pool));
}

struct stroll {
    mempool_t *pool;
    uint64_t seen, stop_after, last_end;
    void *extra[8];
};

static bool stroll_visit(const mempool_block_t *block, void *context)
{
    struct stroll *stroll = context;
    CHECK(block->offset >= stroll->last_end && block->reserved == 0);
    stroll->last_end = block->offset + block->size;
    return ++stroll->seen < stroll->stop_after;
}

/* A visitor that uses the pool it visits: no lock is held meanwhile. */
static bool busy_visit(const mempool_block_t *block, void *context)
{
    struct stroll *stroll = context;
    if (block->state != MEMPOOL_BLOCK_LIVE) {
        return true;
    }
    OK(mempool_free(stroll->pool, mempool_pointer(stroll->pool, block->offset)));
    if (stroll->seen < COUNT_OF(stroll->extra)) {
        stroll->extra[stroll->seen] = get(stroll->pool, 10);
        OK(mempool_check(stroll->pool));
        stats_of(stroll->pool);
        uint64_t inner = 0;
        struct stroll nested = {.pool = stroll->pool, .stop_after = 3};
        OK(mempool_walk(stroll->pool, stroll_visit, &nested));
        inner += nested.seen;
        CHECK(inner >= 1 && inner <= 3);
    }
    stroll->seen++;
    return true;
}

static void test_walk(void)
{
    mempool_t *pool = begin(0);
    mempool_stats_t fresh = check_quiet(pool);
    struct stroll stroll = {.pool = pool, .stop_after = UINT64_MAX};
    enum { COUNT = 40 };
    void *blocks[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        blocks[i] = get(pool, 100 + i);
    }
    OK(mempool_walk(pool, stroll_visit, &stroll));
    CHECK(stroll.seen >= COUNT);
    for (uint64_t stop = 1; stop < 5; stop++) {
        stroll = (struct stroll){.pool = pool, .stop_after = stop};
        OK(mempool_walk(pool, stroll_visit, &stroll));
        CHECK(stroll.seen == stop);
    }
    stroll = (struct stroll){.pool = pool};
    OK(mempool_walk(pool, busy_visit, &stroll));
    CHECK(stroll.seen >= COUNT); /* those that the visitor made may be seen once, too */
    for (size_t i = 0; i < COUNT_OF(stroll.extra); i++) {
        mempool_free(pool, stroll.extra[i]); /* freed already if they were seen */
    }
    check_whole(pool, &fresh);
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "visit", mempool_walk(pool, (mempool_visit_t)0, NULL));
    CHECK(blocks[0] != NULL);
    OK(mempool_detach(pool));
}

struct copy {
    mempool_block_t blocks[256];
    size_t count;
};

static bool copy_visit(const mempool_block_t *block, void *context)
{
    struct copy *copy = context;
    CHECK(copy->count < COUNT_OF(copy->blocks));
    copy->blocks[copy->count++] = *block;
    return true;
}

static void test_inspect(void)
{
    mempool_t *pool = begin(0);
    void *blocks[60];
    for (size_t i = 0; i < COUNT_OF(blocks); i++) {
        blocks[i] = get(pool, 1 + 50 * i);
    }
    for (size_t i = 0; i < COUNT_OF(blocks); i += 2) {
        OK(mempool_free(pool, blocks[i]));
    }
    static struct copy walked, inspected;
    OK(mempool_walk(pool, copy_visit, &walked));
    mempool_stats_t wanted = check_quiet(pool), got = MEMPOOL_STATS_INIT;

    CHECK(mprotect(memory, LEN, PROT_READ) == 0);
    OK(mempool_inspect(memory, LEN, NULL, &got, copy_visit, &inspected));
    CHECK(memcmp(&wanted, &got, sizeof got) == 0);
    CHECK(inspected.count == walked.count);
    CHECK(memcmp(inspected.blocks, walked.blocks, walked.count * sizeof walked.blocks[0]) == 0);
    mempool_stats_t only = MEMPOOL_STATS_INIT;
    OK(mempool_inspect(memory, LEN, NULL, &only, NULL, NULL));
    CHECK(memcmp(&wanted, &only, sizeof only) == 0);
    CHECK(mprotect(memory, LEN, PROT_READ | PROT_WRITE) == 0);

    only.struct_size--;
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "struct_size", mempool_inspect(memory, LEN, NULL, &only, NULL, NULL));
    only.struct_size++;
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "buffer", mempool_inspect(nowhere, LEN, NULL, &only, NULL, NULL));
    OK(mempool_detach(pool));
}

static void test_peek(void)
{
    const mempool_options_t kinds[] = {
        MEMPOOL_OPTIONS_INIT,
        {.struct_size = sizeof(mempool_options_t), .align = 4096},
        {.struct_size = sizeof(mempool_options_t), .end = 100001},
    };
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        mempool_t *pool = new_pool(memory, LEN, &kinds[i]);
        uint64_t len = 0;
        OK(mempool_peek(memory, 4096, &len));
        CHECK(len <= LEN && len >= stats_of(pool).total);
        OK(mempool_detach(attach(memory, len)));
        refuses_attach(len - 1, MEMPOOL_ERR_INCOMPATIBLE, "map all of it");
        /* The prefix may have been read to anywhere. */
        for (size_t shift = 0; shift < 8; shift++) {
            uint64_t same = 0;
            memcpy(elsewhere + shift, memory, 512);
            OK(mempool_peek(elsewhere + shift, 512, &same));
            CHECK(same == len);
        }
        OK(mempool_release(pool));
        REFUSED(MEMPOOL_ERR_NOT_A_POOL, "", mempool_peek(memory, 4096, &len));
        OK(mempool_detach(pool));
    }
    uint64_t len = 0;
    mempool_t *pool = begin(0);
    for (size_t n = 0; n <= 8; n++) {
        CHECK(mempool_peek(memory, n, &len) != MEMPOOL_OK);
    }
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "", mempool_peek(memory, 4096, (uint64_t *)nowhere));
    REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "", mempool_peek(nowhere, 4096, &len));
    memset(elsewhere, 0x42, 4096);
    REFUSED(MEMPOOL_ERR_NOT_A_POOL, "", mempool_peek(elsewhere, 4096, &len));
    OK(mempool_detach(pool));
}

static void test_trim_recover(void)
{
    mempool_t *pool = begin(0);
    mempool_stats_t fresh = check_quiet(pool);
    void *block = get(pool, 100);
    OK(mempool_trim(pool));
    uint64_t recovered = 99;
    OK(mempool_recover(pool, &recovered));
    CHECK(recovered == 0);
    OK(mempool_recover(pool, NULL));
    CHECK(mempool_usable_size(pool, block) >= 100);
    OK(mempool_free(pool, block));
    check_whole(pool, &fresh);
    OK(mempool_detach(pool));
}

static void *fail_elsewhere(void *context)
{
    mempool_t *pool = context;
    CHECK(mempool_last_error() == MEMPOOL_OK); /* nothing failed in this thread */
    REFUSED_NULL(EINVAL, MEMPOOL_ERR_INVALID_ARGUMENT, "size", mempool_malloc(pool, zero));
    return NULL;
}

static void test_last_error(void)
{
    mempool_t *pool = begin(0);
    REFUSED(MEMPOOL_ERR_FOREIGN_POINTER, "outside", mempool_free(pool, elsewhere));
    const char *message = mempool_last_message();
    char copy[512];
    snprintf(copy, sizeof copy, "%s", message);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, fail_elsewhere, pool) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    OK(mempool_free(pool, get(pool, 10)));
    /* It is this thread's, and stays until its next failing call. */
    CHECK(mempool_last_error() == MEMPOOL_ERR_FOREIGN_POINTER && strcmp(message, copy) == 0);
    CHECK(strcmp(mempool_last_message(), copy) == 0);
    OK(mempool_detach(pool));
}

static void test_texts(void)
{
    CHECK(strlen(mempool_strerror(MEMPOOL_OK)) > 0);
    for (mempool_status_t a = MEMPOOL_ERR_BUSY; a <= MEMPOOL_OK; a++) {
        CHECK(strlen(mempool_strerror(a)) > 0 && mempool_strerror(a) == mempool_strerror(a));
        for (mempool_status_t b = MEMPOOL_ERR_BUSY; b < a; b++) {
            CHECK(strcmp(mempool_strerror(a), mempool_strerror(b)) != 0);
        }
    }
    CHECK(strlen(mempool_strerror(1)) > 0 && strlen(mempool_strerror(INT32_MIN)) > 0);

    char version[32];
    snprintf(version, sizeof version, "%d.%d.%d", (int)MEMPOOL_VERSION_MAJOR, (int)MEMPOOL_VERSION_MINOR,
             (int)MEMPOOL_VERSION_PATCH);
    CHECK(strcmp(mempool_version(), version) == 0);
    CHECK(mempool_version_number() ==
          ((uint32_t)MEMPOOL_VERSION_MAJOR << 16 | (uint32_t)MEMPOOL_VERSION_MINOR << 8 | MEMPOOL_VERSION_PATCH));
}

/* ---- options ---- */

static void test_no_compact(void)
{
    mempool_t *pool = begin(MEMPOOL_NO_COMPACT | MEMPOOL_NO_THREAD_CACHES);
    mempool_stats_t fresh = check_quiet(pool);
    char *a = get(pool, 64), *b = get(pool, 64), *c = get(pool, 64);
    uint64_t top = stats_of(pool).top;
    OK(mempool_free(pool, a));
    OK(mempool_free(pool, b));
    mempool_stats_t s = check_quiet(pool);
    CHECK(s.free_count == 2 && s.free_size == 128); /* neighbours, but two */
    char *d = get(pool, 128);
    CHECK(d != a && d != b); /* which together would have done */
    OK(mempool_free(pool, c));
    OK(mempool_free(pool, d));
    s = check_quiet(pool);
    CHECK(s.used_count == 0 && s.free_count == 4 && s.top == top + 128); /* top does not come down either */
    char *e = get(pool, 64);
    CHECK(e == a || e == b || e == c); /* reused all the same */
    OK(mempool_free_all(pool));
    check_whole(pool, &fresh);
    OK(mempool_detach(pool));
}

static void test_no_split(void)
{
    mempool_t *pool = begin(MEMPOOL_NO_SPLIT | MEMPOOL_NO_THREAD_CACHES);
    mempool_stats_t fresh = check_quiet(pool);
    char *a = get(pool, 1000), *fence = get(pool, 16);
    size_t whole = mempool_usable_size(pool, a);
    CHECK(check_quiet(pool).used_size == whole + 16); /* top is not one free block: it is cut as needed */
    OK(mempool_free(pool, a));
    char *b = get(pool, 16);
    CHECK(b == a && mempool_usable_size(pool, b) == whole); /* a block is handed out whole */
    CHECK(check_quiet(pool).free_count == 0);
    OK(mempool_free_sized(pool, b, 16)); /* a size it was asked for, small as it is */
    b = get(pool, 900);
    CHECK(b == a && mempool_realloc(pool, b, 16) == b && mempool_usable_size(pool, b) == whole);
    OK(mempool_free(pool, b));
    OK(mempool_free(pool, fence));
    check_whole(pool, &fresh);
    OK(mempool_detach(pool));
}

static void test_min_split(void)
{
    mempool_options_t options = with_flags(MEMPOOL_NO_THREAD_CACHES);
    options.min_split = 256;
    mempool_t *pool = new_pool(memory, LEN, &options);
    mempool_stats_t fresh = check_quiet(pool);
    char *a = get(pool, 512), *fence = get(pool, 16);
    OK(mempool_free(pool, a));
    char *b = get(pool, 272); /* leaves 240: less than worth it */
    CHECK(b == a && mempool_usable_size(pool, b) == 512 && check_quiet(pool).free_count == 0);
    OK(mempool_free_sized(pool, b, 272));
    b = get(pool, 256); /* leaves 256 */
    CHECK(b == a && mempool_usable_size(pool, b) == 256 && check_quiet(pool).free_size == 256);
    CHECK(mempool_realloc(pool, b, 512) == b);
    CHECK(mempool_realloc(pool, b, 300) == b && mempool_usable_size(pool, b) == 512);
    CHECK(mempool_realloc(pool, b, 100) == b && mempool_usable_size(pool, b) == 112);
    check_quiet(pool);
    OK(mempool_free(pool, b));
    OK(mempool_free(pool, fence));
    check_whole(pool, &fresh);
    OK(mempool_detach(pool));
}

/* Who promises zero bytes and does not keep it gets errors or loses blocks, but no access outside the buffer. */
static void test_zeroed(void)
{
    memset(memory, 0, LEN);
    mempool_t *pool = begin(MEMPOOL_ZEROED); /* kept */
    mempool_stats_t fresh = check_quiet(pool);
    unsigned char *block = mempool_calloc(pool, 1000, 100);
    CHECK(block != NULL && is_filled(block, 100000, 0));
    OK(mempool_free(pool, block));
    check_whole(pool, &fresh);
    OK(mempool_detach(pool));

    unsigned char *area = mmap(NULL, LEN + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(area != MAP_FAILED);
    unsigned char *buffer = area + 4096;
    CHECK(mprotect(buffer, LEN, PROT_READ | PROT_WRITE) == 0); /* a step outside is a crash */
    uint64_t random = rng_seed(0);
    mempool_options_t options = with_flags(MEMPOOL_ZEROED);
    for (unsigned lie = 0; lie < 64; lie++) {
        for (size_t i = 0; i < LEN; i++) {
            buffer[i] = (unsigned char)(lie < 32 ? lie * 8 + lie / 4 : rng_next(&random) >> 56);
        }
        pool = new_pool(buffer, LEN, &options);
        unsigned char *blocks[32] = {NULL};
        for (int i = 0; i < 2000; i++) {
            unsigned char **slot = &blocks[rng_below(&random, 32)];
            size_t size = 1 + rng_below(&random, 4000);
            if (*slot == NULL) {
                *slot = mempool_malloc(pool, size);
                CHECK(*slot == NULL || (*slot >= buffer && *slot + size <= buffer + LEN));
            } else if (rng_below(&random, 2)) {
                unsigned char *moved = mempool_realloc(pool, *slot, size);
                CHECK(moved == NULL || (moved >= buffer && moved + size <= buffer + LEN));
                *slot = moved;
            } else {
                mempool_free(pool, *slot);
                *slot = NULL;
            }
        }
        mempool_status_t status = mempool_check(pool);
        CHECK(status == MEMPOOL_OK || status == MEMPOOL_ERR_CORRUPTED);
        struct stroll stroll = {.pool = pool, .stop_after = UINT64_MAX};
        mempool_walk(pool, stroll_visit, &stroll);
        OK(mempool_detach(pool));
    }
    CHECK(munmap(area, LEN + 8192) == 0);
}

/* More granules than can be numbered: refused before a byte is touched, and the align that it names is the least that
 * works. The memory is sparse: its terabyte is never there. */
static void test_too_large(void)
{
    const size_t tib = (size_t)1 << 40;
    unsigned char *buffer = mmap(NULL, tib, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(buffer != MAP_FAILED);
    mempool_t *pool = (mempool_t *)memory;
    REFUSED(MEMPOOL_ERR_BUFFER_TOO_LARGE, "align", mempool_init(buffer, tib, NULL, &pool));
    CHECK(pool == NULL);
    const char *named = strstr(mempool_last_message(), "align ");
    CHECK(named != NULL);
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    options.align = (size_t)strtoull(named + strlen("align "), NULL, 10);
    CHECK(options.align > 16 && options.align <= 65536);
    options.align /= 2;
    REFUSED(MEMPOOL_ERR_BUFFER_TOO_LARGE, "align", mempool_init(buffer, tib, &options, &pool));
    options.align *= 2;
    CHECK(mprotect(buffer, tib, PROT_READ | PROT_WRITE) == 0);
    pool = new_pool(buffer, tib, &options);
    mempool_stats_t fresh = check_quiet(pool);
    CHECK(fresh.total == tib && fresh.align == options.align);
    void *block = get(pool, 1 * MIB);
    stamp(block, 1 * MIB, 1);
    CHECK(is_stamped(block, 1 * MIB, 1));
    OK(mempool_free(pool, block));
    check_whole(pool, &fresh);
    OK(mempool_detach(pool));

    /* A smaller end helps too, as the message says. */
    options.align = 16;
    options.end = 1 * MIB;
    pool = new_pool(buffer, tib, &options);
    CHECK(stats_of(pool).total == 1 * MIB);
    OK(mempool_detach(pool));
    CHECK(munmap(buffer, tib) == 0);
}

/* Scribbled over by a buggy peer: named by check, and no call does worse than fail. */
static void test_corrupted(void)
{
    mempool_t *pool = begin(0);
    for (size_t i = 0; i < 50; i++) {
        get(pool, 100);
    }
    size_t overhead = stats_of(pool).overhead;
    memset(memory + 240, 0xE5, overhead - 240); /* the bins and the map, as in the picture in src/layout.rs */
    REFUSED(MEMPOOL_ERR_CORRUPTED, "offset", mempool_check(pool));
    for (size_t i = 0; i < 50; i++) {
        errno = 0;
        void *block = mempool_malloc(pool, 100);
        CHECK(block != NULL || errno == EIO || errno == ENOMEM);
    }
    OK(mempool_detach(pool));
}

#define RUN(test) (printf("%s\n", #test), fflush(stdout), test())

int main(void)
{
    RUN(test_init_refuses);
    RUN(test_struct_size);
    RUN(test_attach_refuses);
    RUN(test_open);
    RUN(test_release);
    RUN(test_init_again);
    RUN(test_null_pool);
    RUN(test_start_end);
    RUN(test_min_len);
    RUN(test_malloc);
    RUN(test_largest_free);
    RUN(test_exact_fit);
    RUN(test_calloc);
    RUN(test_aligned_alloc);
    RUN(test_realloc_in_place);
    RUN(test_realloc_refuses);
    RUN(test_expand);
    RUN(test_bad_frees);
    RUN(test_free_sized);
    RUN(test_free_all);
    RUN(test_sizes);
    RUN(test_offsets);
    RUN(test_stats);
    RUN(test_max_threads);
    RUN(test_cached);
    RUN(test_pressure);
    RUN(test_caches_end);
    RUN(test_too_few_caches);
    RUN(test_good_size);
    RUN(test_room_to_grow);
    RUN(test_walk);
    RUN(test_inspect);
    RUN(test_peek);
    RUN(test_trim_recover);
    RUN(test_last_error);
    RUN(test_texts);
    RUN(test_no_compact);
    RUN(test_no_split);
    RUN(test_min_split);
    RUN(test_zeroed);
    RUN(test_too_large);
    RUN(test_corrupted);
    return PASSED();
}
