/* Buffers that start anywhere, of any length from the least on: every shift 0..16, odd ones up to a page, every align.
 * Blocks are aligned by address to min(align, 4096), or more if asked; the bytes around the buffer stay as they were,
 * and a page that faults on any access lies behind the last of them. */
#include "test.h"

/* The arena: a page that faults on any access, room, a page that faults. */
#define ROOM (1 * MIB)
#define PAGE ((size_t)4096)
#define AROUND ((size_t)64) /* bytes watched on both sides of a buffer */

static unsigned char *arena;

static void make_arena(void)
{
    unsigned char *memory = mmap(NULL, ROOM + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    CHECK(mprotect(memory + PAGE, ROOM, PROT_READ | PROT_WRITE) == 0);
    arena = memory + PAGE;
}

static size_t min_of(size_t a, size_t b)
{
    return a < b ? a : b;
}

static mempool_options_t options_of(size_t align)
{
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    options.align = align;
    return options;
}

/* Fills the pool to the brim, looks at every block, frees all. */
static void fill_and_empty(mempool_t *pool, unsigned char *buffer, size_t len, size_t align, uint64_t *random)
{
    enum { MOST = 256 };
    unsigned char *blocks[MOST];
    size_t sizes[MOST], count = 0;
    mempool_stats_t fresh = check_quiet(pool);
    while (count < MOST) {
        size_t size = count == 0 ? 1 : 1 + rng_below(random, (unsigned)min_of(len, 3 * align));
        size_t alignment = count % 4 == 3 ? (size_t)1 << rng_below(random, 13) : 1;
        unsigned char *block = mempool_aligned_alloc(pool, alignment, size);
        if (block == NULL) {
            CHECK(errno == ENOMEM);
            if (alignment > 1) {
                block = mempool_malloc(pool, size);
            }
            if (block == NULL) {
                break;
            }
            alignment = 1;
        }
        CHECK(block >= buffer && block + size <= buffer + len);
        CHECK((uintptr_t)block % alignment == 0);
        CHECK((uintptr_t)block % min_of(align, PAGE) == 0);
        if (count > 0) { /* and beyond a page, by offset: all blocks lie whole granules apart */
            CHECK((size_t)(block > blocks[0] ? block - blocks[0] : blocks[0] - block) % align == 0);
        }
        stamp(block, size, (unsigned)count);
        blocks[count] = block;
        sizes[count++] = size;
    }
    CHECK(count > 0);
    check_quiet(pool);
    for (size_t i = 0; i < count; i++) { /* odd ones first, so that both merges and gaps are met */
        size_t k = i < count / 2 ? 2 * i + 1 : 2 * (i - count / 2);
        CHECK(is_stamped(blocks[k], sizes[k], (unsigned)k));
        OK(mempool_free(pool, blocks[k]));
    }
    check_whole(pool, &fresh);
}

static void try_buffer(unsigned char *buffer, size_t len, size_t align, uint64_t *random)
{
    mempool_options_t options = options_of(align);
    unsigned char *front = buffer - min_of(AROUND, (size_t)(buffer - arena));
    unsigned char *back = buffer + len + min_of(AROUND, (size_t)(arena + ROOM - buffer) - len);
    memset(front, 0x5C, (size_t)(back - front)); /* a dirty buffer too: only its two ends, but the header lies at one */

    mempool_t *pool = new_pool(buffer, len, &options);
    fill_and_empty(pool, buffer, len, align, random);
    mempool_t *again = attach(buffer, len);
    CHECK(stats_of(again).pool_id == stats_of(pool).pool_id);
    OK(mempool_detach(again));
    OK(mempool_release(pool));
    OK(mempool_detach(pool));

    CHECK(is_filled(front, (size_t)(buffer - front), 0x5C));
    CHECK(is_filled(buffer + len, (size_t)(back - buffer) - len, 0x5C));
}

/* min_len is enough at every shift, and one byte less is not enough at some. */
static void test_min_len(size_t align)
{
    mempool_options_t options = options_of(align);
    size_t least = mempool_min_len(&options);
    CHECK(least > align && least < ROOM - PAGE);
    unsigned refused = 0;
    for (size_t shift = 0; shift < min_of(align, PAGE); shift++) {
        unsigned char *buffer = arena + shift;
        mempool_t *pool = new_pool(buffer, least, &options);
        unsigned char *block = mempool_malloc(pool, 1);
        CHECK(block != NULL && (uintptr_t)block % min_of(align, PAGE) == 0);
        CHECK(block > buffer && block < buffer + least);
        OK(mempool_free(pool, block));
        OK(mempool_detach(pool));

        mempool_t *less = NULL;
        mempool_status_t status = mempool_init(buffer, least - 1, &options, &less);
        if (status == MEMPOOL_OK) {
            block = mempool_malloc(less, 1);
            refused += block == NULL;
            OK(mempool_detach(less));
        } else {
            REFUSED(MEMPOOL_ERR_BUFFER_TOO_SMALL, "bytes", status);
            CHECK(less == NULL);
            refused++;
        }
    }
    CHECK(refused > 0);
}

int main(void)
{
    make_arena();
    uint64_t random = rng_seed(0);
    unsigned pools = 0;
    for (size_t align = 8; align <= 65536; align *= 2) {
        test_min_len(align);
        mempool_options_t options = options_of(align);
        size_t least = mempool_min_len(&options);
        const size_t extra[] = {0, 1, 7, 8, 9, 15, 16, 17, align - 1, align, align + 1, 1000, 10 * align + 3};
        for (size_t shift = 0; shift <= PAGE; shift += shift < 17 ? 1 : 402) { /* 17, 419, 821, .. : odd */
            for (size_t i = 0; i < COUNT_OF(extra); i++) {
                size_t len = least + extra[i];
                if (shift + len <= ROOM) {
                    try_buffer(arena + shift, len, align, &random);
                    try_buffer(arena + ROOM - len - shift % 32, len, align, &random); /* up to the page that faults */
                    pools += 2;
                }
            }
        }
    }
    printf("%u pools\n", pools);
    return PASSED();
}
