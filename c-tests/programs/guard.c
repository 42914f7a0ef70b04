/* MEMPOOL_GUARD and MEMPOOL_FILL_FREED: every byte behind a block, and every byte of freed memory, tells when it is
 * written to; nothing else is ever told; and a call that tells changes nothing but that. */
#include "test.h"

#define LEN (64 * KIB)
#define BOTH (MEMPOOL_GUARD | MEMPOOL_FILL_FREED)

static unsigned char *buffer;
static mempool_t *pool;

static void begin_with(size_t len, uint32_t flags, size_t align)
{
    if (pool != NULL) {
        OK(mempool_detach(pool));
    }
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    options.flags = flags;
    options.align = align;
    memset(buffer, 0x5A, len);
    pool = new_pool(buffer, len, &options);
    mempool_stats_t s = check_quiet(pool);
    CHECK(s.max_threads == 0);
}

static unsigned char *get(size_t size)
{
    unsigned char *block = mempool_malloc(pool, size);
    CHECK(block != NULL);
    if (mempool_good_size(pool, size) == size) {
        memset(block, 0xA5, size);
    }
    return block;
}

/* A block's size as a walk shows it. */
struct lookup {
    uint64_t offset, size;
};

static bool look_up(const mempool_block_t *block, void *context)
{
    struct lookup *lookup = context;
    lookup->size = block->offset == lookup->offset ? block->size : lookup->size;
    return true;
}

static size_t whole(const void *block)
{
    struct lookup lookup = {mempool_offset(pool, block), 0};
    OK(mempool_walk(pool, look_up, &lookup));
    CHECK(lookup.size > 0);
    return lookup.size;
}

/* ---- behind a block ---- */

static const char *overrun(const void *block, size_t asked, size_t at)
{
    static char words[160];
    unsigned long long offset = mempool_offset(pool, block);
    snprintf(words, sizeof words, "block at offset %llu was written beyond its end: at offset %llu, %zu bytes behind its %zu",
             offset, offset + at, at - asked, asked);
    return words;
}

/* Each byte behind a block, with each of the values that it may become. */
static unsigned test_each_byte(uint32_t flags, size_t align, size_t sizes, unsigned step)
{
    begin_with(LEN, flags, align);
    unsigned writes = 0;
    for (size_t size = 1; size <= sizes; size++) {
        unsigned char *block = get(size);
        unsigned char *next = get(1);
        size_t end = whole(block);
        CHECK(end - size >= 16);
        CHECK(mempool_usable_size(pool, block) == size && mempool_good_size(pool, size) == size);
        for (size_t at = size; at < end; at++) {
            for (unsigned by = 1; by < 256; by += step) {
                block[at] ^= (unsigned char)by;
                REFUSED(MEMPOOL_ERR_CORRUPTED, overrun(block, size, at), mempool_free(pool, block));
                block[at] ^= (unsigned char)by;
                writes++;
            }
        }
        for (unsigned by = 0; by < 256; by++) { /* its last byte is its own, whatever it is */
            block[size - 1] = (unsigned char)by;
            if (by % 16 == 13) { /* 0xBD among them */
                OK(mempool_check(pool));
            }
        }
        OK(mempool_free(pool, block));
        OK(mempool_free(pool, next));
    }
    CHECK(check_quiet(pool).used_count == 0);
    return writes;
}

/* Every call that ends or changes a block tells, and changes nothing. */
static void test_each_call(uint32_t flags)
{
    begin_with(LEN, flags, 0);
    uint64_t *slots = mempool_calloc(pool, 4, sizeof *slots);
    OK(mempool_malloc_to(pool, 100, slots));
    unsigned char *block = mempool_pointer(pool, slots[0]);
    unsigned char *other = get(100);
    size_t first = (size_t)(block - buffer) - 64;
    static unsigned char before[LEN];
    stamp(block, 100, 1);
    block[100 + 3] ^= 1;
    const char *words = overrun(block, 100, 103);
    mempool_stats_t s = stats_of(pool);
    memcpy(before, buffer, LEN);
    REFUSED(MEMPOOL_ERR_CORRUPTED, words, mempool_check(pool));
    REFUSED(MEMPOOL_ERR_CORRUPTED, words, mempool_free(pool, block));
    REFUSED(MEMPOOL_ERR_CORRUPTED, words, mempool_free_sized(pool, block, 100));
    REFUSED(MEMPOOL_ERR_CORRUPTED, words, mempool_expand(pool, block, 101));
    REFUSED(MEMPOOL_ERR_CORRUPTED, words, mempool_expand(pool, block, 50));
    REFUSED(MEMPOOL_ERR_CORRUPTED, words, mempool_free_from(pool, slots));
    for (size_t size = 1; size < 2000; size += 37) {
        REFUSED_NULL(EIO, MEMPOOL_ERR_CORRUPTED, words, mempool_realloc(pool, block, size));
        REFUSED_NULL(EIO, MEMPOOL_ERR_CORRUPTED, words, mempool_realloc_array(pool, block, size, 2));
    }
    CHECK(memcmp(before + first, buffer + first, LEN - first) == 0);
    CHECK(stats_of(pool).used_count == s.used_count && stats_of(pool).rejected_frees == 0);
    /* It is there, and others can be used. */
    CHECK(mempool_usable_size(pool, block) == 100 && is_stamped(block, 100, 1));
    OK(mempool_free(pool, other));
    REFUSED(MEMPOOL_ERR_CORRUPTED, words, mempool_check(pool));
    /* Mended, it is like any other. */
    block[103] ^= 1;
    OK(mempool_free_from(pool, slots));
    /* Whatever is damaged, all can begin anew. */
    block = get(40);
    memset(block + 40, 0, 8);
    REFUSED(MEMPOOL_ERR_CORRUPTED, overrun(block, 40, 40), mempool_free(pool, block));
    OK(mempool_free_all(pool));
    CHECK(check_quiet(pool).used_count == 0);
}

/* An overrun over all that tells of it. */
static void test_long_overrun(void)
{
    begin_with(LEN, BOTH, 0);
    for (size_t size = 1; size < 70; size++) {
        unsigned char *block = get(size);
        size_t end = whole(block);
        memset(block + size, 0x41, end - size);
        char words[120];
        snprintf(words, sizeof words, "block at offset %llu was written beyond its end: at offset %llu or before",
                 (unsigned long long)mempool_offset(pool, block),
                 (unsigned long long)mempool_offset(pool, block + end - 16));
        REFUSED(MEMPOOL_ERR_CORRUPTED, words, mempool_free(pool, block));
        REFUSED(MEMPOOL_ERR_CORRUPTED, words, mempool_free_sized(pool, block, size));
        REFUSED(MEMPOOL_ERR_CORRUPTED, words, mempool_check(pool));
        CHECK(mempool_usable_size(pool, block) == 0);
        uint64_t *slot = (uint64_t *)block;
        REFUSED(MEMPOOL_ERR_CORRUPTED, words, mempool_malloc_to(pool, 8, slot));
        /* As tails of other sizes would: none is believed that the block cannot have. */
        for (unsigned i = 0; i < 8; i++) {
            memset(block + end - 8, (int)i * 36, 8);
            CHECK(mempool_usable_size(pool, block) == 0);
        }
        OK(mempool_free_all(pool));
    }
}

/* A slot is not to be in a guard. */
static void test_slots(void)
{
    begin_with(LEN, BOTH, 0);
    for (size_t size = 1; size < 64; size++) {
        uint64_t *block = (uint64_t *)get(size);
        memset(block, 0, size);
        for (size_t i = 0; 8 * i < whole(block); i++) {
            if (8 * (i + 1) <= size) {
                OK(mempool_malloc_to(pool, size, &block[i]));
                CHECK(mempool_usable_size(pool, mempool_pointer(pool, block[i])) == size);
                OK(mempool_free_from(pool, &block[i]));
                OK(mempool_calloc_to(pool, 1, size, &block[i]));
                OK(mempool_free_from(pool, &block[i]));
            } else {
                REFUSED(MEMPOOL_ERR_NOT_ALLOCATED, "beyond what its block", mempool_malloc_to(pool, 8, &block[i]));
            }
        }
        OK(mempool_free(pool, block));
        OK(mempool_check(pool));
    }
}

/* Sizes are what was asked for, contents stay, and what is left over is guard. */
static void test_sizes(uint32_t flags, size_t align)
{
    begin_with(LEN, flags, align);
    uint64_t random = rng_seed(align);
    unsigned char *block = get(100);
    unsigned char *wall = get(64);
    size_t size = 100;
    for (unsigned i = 0; i < 400; i++) {
        stamp(block, size, i);
        size_t next = 1 + rng_below(&random, 700);
        bool grows = next >= size;
        if (i % 4 == 0 && mempool_expand(pool, block, next) == MEMPOOL_OK) {
            next = grows ? next : size;
            CHECK(is_stamped(block, size, i));
        } else {
            block = i % 3 ? mempool_realloc(pool, block, next) : mempool_realloc_array(pool, block, 1, next);
            CHECK(block != NULL && is_stamped(block, grows ? size : next, i));
        }
        size = next;
        if (flags & MEMPOOL_GUARD) {
            CHECK(mempool_usable_size(pool, block) == size);
            REFUSED(MEMPOOL_ERR_INVALID_ARGUMENT, "never asked for", mempool_free_sized(pool, block, size + 1));
        }
        if (i % 16 == 0) {
            check_quiet(pool);
            OK(mempool_free(pool, wall));
            wall = get(1 + rng_below(&random, 300));
        }
    }
    OK(mempool_free_sized(pool, block, size));
    OK(mempool_free(pool, wall));
    for (size_t alignment = 1; alignment <= 4096; alignment *= 2) {
        unsigned char *aligned = mempool_aligned_alloc(pool, alignment, 33);
        CHECK(aligned != NULL && (uintptr_t)aligned % alignment == 0 && mempool_usable_size(pool, aligned) >= 33);
        unsigned char *filled = mempool_calloc_fill(pool, 11, 3, 0x77);
        CHECK(filled != NULL && is_filled(filled, 33, 0x77) && mempool_usable_size(pool, filled) >= 33);
        check_quiet(pool);
        OK(mempool_free(pool, aligned));
        OK(mempool_free(pool, filled));
    }
    mempool_stats_t s = stats_of(pool);
    unsigned char *all = mempool_malloc(pool, s.largest_free);
    CHECK(all != NULL && mempool_usable_size(pool, all) == ((flags & MEMPOOL_GUARD) ? s.largest_free : whole(all)));
    OK(mempool_free(pool, all));
    REFUSED_NULL(ENOMEM, MEMPOOL_ERR_OUT_OF_MEMORY, "", mempool_malloc(pool, s.largest_free + 1));
    CHECK(mempool_good_size(pool, SIZE_MAX) == 0 && mempool_good_size(pool, SIZE_MAX - 15) == 0);
    REFUSED_NULL(ENOMEM, MEMPOOL_ERR_OUT_OF_MEMORY, "", mempool_malloc(pool, SIZE_MAX));
}

/* The smallest pools: one malloc(1), at any place of the buffer. */
static void test_small(void)
{
    for (size_t align = 8; align <= 4096; align *= 2) {
        for (uint32_t flags = 0; flags <= BOTH; flags += MEMPOOL_GUARD) {
            mempool_options_t options = MEMPOOL_OPTIONS_INIT;
            options.flags = flags;
            options.align = align;
            size_t len = mempool_min_len(&options);
            CHECK(len > 0);
            for (size_t shift = 0; shift < 64; shift += 7) {
                mempool_t *small = new_pool(buffer + shift, len, &options);
                unsigned char *block = mempool_malloc(small, 1);
                CHECK(block != NULL);
                block[0] = 0x11;
                OK(mempool_check(small));
                OK(mempool_free(small, block));
                OK(mempool_check(small));
                OK(mempool_detach(small));
            }
        }
    }
}

/* ---- freed memory ---- */

static const char *written(const void *at)
{
    static char words[80];
    snprintf(words, sizeof words, "free memory was written to at offset %llu:",
             (unsigned long long)mempool_offset(pool, at));
    return words;
}

static void *use_malloc(void *before, size_t size)
{
    (void)before;
    return mempool_malloc(pool, size);
}

static void *use_calloc(void *before, size_t size)
{
    (void)before;
    return mempool_calloc(pool, 1, size);
}

static void *use_aligned(void *before, size_t size)
{
    (void)before;
    return mempool_aligned_alloc(pool, 16, size);
}

/* In place, over what was freed behind it. */
static void *use_realloc(void *before, size_t size)
{
    return mempool_realloc(pool, before, whole(before) + size);
}

static void *use_expand(void *before, size_t size)
{
    return mempool_expand(pool, before, whole(before) + size) == MEMPOOL_OK ? before : NULL;
}

/* Each byte of a freed block: whoever is to get it is told once, and gets it the next time. */
static unsigned test_each_freed_byte(uint32_t flags, bool is_at_top)
{
    static void *(*const uses[])(void *, size_t) = {use_malloc, use_calloc, use_aligned, use_realloc, use_expand};
    unsigned writes = 0;
    for (size_t use = 0; use < COUNT_OF(uses); use++) {
        begin_with(LEN, MEMPOOL_FILL_FREED | flags, 0);
        unsigned char *before = get(32), *block = get(96), *wall = get(32);
        size_t length = whole(block), guard = length - 96;
        if (is_at_top) {
            OK(mempool_free(pool, wall));
        }
        OK(mempool_free(pool, block));
        CHECK(is_filled(block + 8, length - 8, 0xDF));
        mempool_stats_t s = check_quiet(pool);
        size_t links = is_at_top ? 0 : 8;
        size_t size = uses[use] == use_realloc || uses[use] == use_expand ? length - guard : 96;
        for (size_t at = links; at < length; at++) {
            for (unsigned by = 1; by < 256; by += 50) {
                block[at] ^= (unsigned char)by;
                REFUSED(MEMPOOL_ERR_CORRUPTED, written(block + at), mempool_check(pool));
                REFUSED(MEMPOOL_ERR_CORRUPTED, written(block + at), mempool_check(pool));
                const void *none = (errno = 0, uses[use](before, size));
                CHECK(none == NULL && (errno == EIO || uses[use] == use_expand));
                check_message(__FILE__, __LINE__, "use", MEMPOOL_ERR_CORRUPTED, written(block + at));
                OK(mempool_check(pool));
                CHECK(stats_of(pool).available == s.available);
                void *again = uses[use](before, size);
                CHECK(again == (uses[use] == use_realloc || uses[use] == use_expand ? before : block));
                if (again == before) {
                    CHECK(mempool_realloc(pool, before, 32) == before);
                } else {
                    OK(mempool_free(pool, again));
                }
                CHECK(check_quiet(pool).available == s.available);
                writes++;
            }
        }
    }
    return writes;
}

/* What a write to the links of a free block does: a check names it, and who comes to need them is told once. */
static void test_links(void)
{
    begin_with(LEN, MEMPOOL_FILL_FREED, 0);
    for (size_t at = 0; at < 8; at++) {
        unsigned char *block[5];
        for (size_t i = 0; i < COUNT_OF(block); i++) {
            block[i] = get(96);
        }
        OK(mempool_free(pool, block[1]));
        OK(mempool_free(pool, block[3]));
        unsigned char *first = block[3]; /* of its bin */
        first[at] ^= 0x40;
        REFUSED(MEMPOOL_ERR_CORRUPTED, written(first + at / 4 * 4), mempool_check(pool));
        REFUSED_NULL(EIO, MEMPOOL_ERR_CORRUPTED, written(first + at / 4 * 4), mempool_malloc(pool, 96));
        OK(mempool_check(pool));
        CHECK(get(96) != NULL && get(96) != NULL);
        /* A free that meets them is not to blame. */
        OK(mempool_free(pool, block[1]));
        OK(mempool_free(pool, block[3]));
        block[3][at] ^= 0x40;
        OK(mempool_free(pool, block[2]));
        REFUSED(MEMPOOL_ERR_CORRUPTED, "free memory was written to", mempool_check(pool));
        REFUSED_NULL(EIO, MEMPOOL_ERR_CORRUPTED, "free memory was written to", mempool_malloc(pool, 288));
        CHECK(get(288) == block[1]);
        OK(mempool_free_all(pool));
        check_quiet(pool);
    }
}

/* What becomes the links of the rest when a part is handed out is looked at before. */
static void test_rest(void)
{
    begin_with(LEN, MEMPOOL_FILL_FREED, 0);
    unsigned char *before = get(32), *block = get(96);
    get(32);
    OK(mempool_free(pool, block));
    for (size_t at = 32; at < 40; at++) {
        block[at] ^= 1;
        REFUSED_NULL(EIO, MEMPOOL_ERR_CORRUPTED, written(block + at), mempool_malloc(pool, 32));
        CHECK(get(32) == block);
        OK(mempool_free(pool, block));
        block[at] ^= 1;
        REFUSED(MEMPOOL_ERR_CORRUPTED, written(block + at), mempool_expand(pool, before, 64));
        OK(mempool_expand(pool, before, 64));
        CHECK(mempool_realloc(pool, before, 32) == before);
        check_quiet(pool);
    }
}

/* Memory that nobody ever had is filled as it is reached, whatever was in it; the rest is left alone. */
static void test_never_used(void)
{
    begin_with(MIB, MEMPOOL_FILL_FREED | MEMPOOL_ZEROED, 0); /* which is no promise here */
    unsigned char *block = get(100);
    CHECK(is_filled(block + 112, 1000, 0xDF));
    CHECK(is_filled(buffer + MIB - KIB, KIB, 0x5A));
    buffer[MIB - 100] ^= 1;
    OK(mempool_check(pool));
    unsigned char *all = mempool_malloc(pool, stats_of(pool).largest_free);
    CHECK(all != NULL && is_filled(all, 800 * KIB, 0xDF));
    OK(mempool_free(pool, block));
    OK(mempool_free(pool, all));
    OK(mempool_check(pool));
}

/* ---- processes ---- */

static void in_child(unsigned char *block, void (*act)(mempool_t *there, unsigned char *block))
{
    pid_t child = fork_process();
    if (child == 0) {
        mempool_t *there = attach(buffer, LEN);
        act(there, block);
        OK(mempool_detach(there));
        _exit(0);
    }
    wait_ok(child);
}

static void overrun_there(mempool_t *there, unsigned char *block)
{
    CHECK(mempool_usable_size(there, block) == 24);
    memset(block, 0, 25);
    REFUSED(MEMPOOL_ERR_CORRUPTED, "0 bytes behind its 24", mempool_free(there, block));
}

static void free_and_write_there(mempool_t *there, unsigned char *block)
{
    OK(mempool_free(there, block));
    block[20] = 1;
}

static void leave_two(mempool_t *there, unsigned char *block)
{
    (void)block;
    char *one = mempool_malloc(there, 50), *two = mempool_malloc(there, 60), *three = mempool_malloc(there, 70);
    CHECK(one != NULL && two != NULL && three != NULL);
    memset(two, 0, 61);
}

static void test_processes(void)
{
    begin_with(LEN, BOTH | MEMPOOL_OWNER_TAGS, 0);
    unsigned char *block = get(24);
    get(24);
    in_child(block, overrun_there);
    REFUSED(MEMPOOL_ERR_CORRUPTED, overrun(block, 24, 24), mempool_check(pool));
    OK(mempool_free_all(pool));
    block = get(24);
    get(24);
    in_child(block, free_and_write_there);
    REFUSED_NULL(EIO, MEMPOOL_ERR_CORRUPTED, written(block + 20), mempool_malloc(pool, 24));
    CHECK(get(24) == block);

    /* What the dead left goes, but for what is damaged. */
    in_child(NULL, leave_two);
    uint64_t used = stats_of(pool).used_count;
    mempool_reaped_t reaped;
    REFUSED(MEMPOOL_ERR_CORRUPTED, "0 bytes behind its 60", mempool_reap(pool, 0, NULL, NULL, &reaped));
    CHECK(reaped.freed_count == 2 && reaped.kept_count == 1 && reaped.owners == 0);
    CHECK(stats_of(pool).used_count == used - 2);
    REFUSED(MEMPOOL_ERR_CORRUPTED, "0 bytes behind its 60", mempool_check(pool));
    REFUSED(MEMPOOL_ERR_CORRUPTED, "0 bytes behind its 60", mempool_reap(pool, 0, NULL, NULL, &reaped));
    CHECK(reaped.freed_count == 0 && reaped.kept_count == 1);
}

int main(void)
{
    static const uint32_t flags[] = {MEMPOOL_GUARD, BOTH, BOTH | MEMPOOL_NO_COMPACT, BOTH | MEMPOOL_NO_SPLIT,
                                     BOTH | MEMPOOL_OWNER_TAGS, BOTH | MEMPOOL_ZEROED};
    unsigned writes = 0, writes_after_free = 0;
    buffer = map_shared(2 * MIB);
    writes += test_each_byte(MEMPOOL_GUARD, 0, 40, 1);
    writes += test_each_byte(BOTH, 8, 40, 17);
    writes += test_each_byte(BOTH, 64, 100, 101);
    writes += test_each_byte(BOTH | MEMPOOL_OWNER_TAGS, 1024, 3, 101);
    for (size_t i = 0; i < COUNT_OF(flags); i++) {
        test_each_call(flags[i]);
        for (size_t align = 8; align <= 1024; align *= 8) {
            test_sizes(flags[i], align);
        }
    }
    test_sizes(MEMPOOL_FILL_FREED, 0);
    test_long_overrun();
    test_slots();
    test_small();
    for (int is_at_top = 0; is_at_top < 2; is_at_top++) {
        writes_after_free += test_each_freed_byte(0, is_at_top);
        writes_after_free += test_each_freed_byte(MEMPOOL_GUARD, is_at_top);
        writes_after_free += test_each_freed_byte(MEMPOOL_OWNER_TAGS, is_at_top);
    }
    test_links();
    test_rest();
    test_never_used();
    test_processes();
    OK(mempool_detach(pool));
    printf("%u writes behind blocks, %u to freed memory: each was told\n", writes, writes_after_free);
    return PASSED();
}
