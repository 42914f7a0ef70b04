/* Random work on a pool: allocate, stamp, verify, resize, free, and hand blocks to other workers.
 *
 * A block in somebody's hands is one 64-bit word, a *piece*: its offset, its size and its stamp. Pieces live in slots
 * outside the pool: each worker has some of its own, and all share an exchange, where a swap gives one block away and
 * takes another. A slot's word is stored after the block was stamped and cleared before the block is touched again, so
 * at any instant, whoever has just been killed or forked, the piece in a slot must be a live block with its stamp.
 * Between the two, one block at most per worker is in no slot.
 */
#ifndef MEMPOOL_TEST_CHURN_H
#define MEMPOOL_TEST_CHURN_H

#include "test.h"

typedef _Atomic(uint64_t) slot_t; /* a piece, or 0 */

/* offset: 32 bits | size: 16 bits | stamp: 16 bits */
static inline uint64_t piece_of(mempool_t *pool, const void *block, size_t size, unsigned stamp)
{
    uint64_t offset = mempool_offset(pool, block);
    CHECK(offset != 0 && offset <= UINT32_MAX);
    CHECK(size != 0 && size <= UINT16_MAX && stamp <= UINT16_MAX);
    return offset << 32 | (uint64_t)size << 16 | stamp;
}

static inline size_t piece_size(uint64_t piece)
{
    return piece >> 16 & UINT16_MAX;
}

static inline unsigned piece_stamp(uint64_t piece)
{
    return piece & UINT16_MAX;
}

/* The piece's block, once it was seen to be live and to hold its stamp. */
static inline void *piece_verify(mempool_t *pool, uint64_t piece)
{
    void *block = mempool_pointer(pool, piece >> 32);
    CHECK(block != NULL);
    CHECK(mempool_usable_size(pool, block) >= piece_size(piece));
    CHECK(is_stamped(block, piece_size(piece), piece_stamp(piece)));
    return block;
}

struct churn {
    mempool_t *pool;
    slot_t *own;
    unsigned own_count;
    slot_t *exchange; /* NULL: blocks stay with their worker */
    unsigned exchange_count;
    unsigned largest_log2; /* sizes are 1 .. 1 << largest_log2, the small ones as likely as the large; at most 15 */
    uint64_t random;
    uint64_t steps, no_room;
};

static inline size_t churn_size(struct churn *c)
{
    unsigned limit = 1u << rng_below(&c->random, c->largest_log2 + 1);
    return 1 + rng_below(&c->random, limit);
}

/* Counts a call that found no room; anything but "out of memory" is a failure. */
static inline void churn_no_room(struct churn *c)
{
    CHECK(errno == ENOMEM);
    CHECK(mempool_last_error() == MEMPOOL_ERR_OUT_OF_MEMORY);
    c->no_room++;
}

static inline uint64_t churn_stamp(struct churn *c, void *block, size_t size)
{
    unsigned mark = rng_below(&c->random, UINT16_MAX + 1);
    stamp(block, size, mark);
    return piece_of(c->pool, block, size, mark);
}

/* A new piece by any of the ways to get one, or 0. */
static inline uint64_t churn_allocate(struct churn *c)
{
    size_t size = churn_size(c);
    size_t alignment = 1;
    void *block = NULL;
    switch (rng_below(&c->random, 8)) {
    case 0:
        size = (size + 7) / 8 * 8;
        block = mempool_calloc(c->pool, size / 8, 8);
        CHECK(block == NULL || is_filled(block, size, 0));
        break;
    case 1:
        block = mempool_calloc_fill(c->pool, 1, size, 0xA5);
        CHECK(block == NULL || is_filled(block, size, 0xA5));
        break;
    case 2:
        alignment = (size_t)1 << rng_below(&c->random, 11);
        block = mempool_aligned_alloc(c->pool, alignment, size);
        CHECK((uintptr_t)block % alignment == 0);
        break;
    case 3:
        block = mempool_realloc(c->pool, NULL, size);
        break;
    case 4:
        block = mempool_realloc_array(c->pool, NULL, 1, size);
        break;
    default:
        block = mempool_malloc(c->pool, size);
    }
    if (block == NULL) {
        churn_no_room(c);
        return 0;
    }
    CHECK(mempool_usable_size(c->pool, block) >= size);
    return churn_stamp(c, block, size);
}

static inline uint64_t churn_resize(struct churn *c, uint64_t piece)
{
    void *block = piece_verify(c->pool, piece);
    size_t size = churn_size(c);
    void *moved = rng_below(&c->random, 4) == 0 ? mempool_realloc_array(c->pool, block, size, 1)
                                                 : mempool_realloc(c->pool, block, size);
    if (moved == NULL) {
        churn_no_room(c);
        piece_verify(c->pool, piece); /* a failed realloc leaves the block alone */
        return piece;
    }
    size_t kept = size < piece_size(piece) ? size : piece_size(piece);
    CHECK(is_stamped(moved, kept, piece_stamp(piece)));
    return churn_stamp(c, moved, size);
}

static inline uint64_t churn_expand(struct churn *c, uint64_t piece)
{
    void *block = piece_verify(c->pool, piece);
    size_t size = piece_size(piece) + churn_size(c);
    if (size > UINT16_MAX) {
        return piece;
    }
    if (mempool_expand(c->pool, block, size) != MEMPOOL_OK) {
        CHECK(mempool_last_error() == MEMPOOL_ERR_OUT_OF_MEMORY);
        piece_verify(c->pool, piece);
        return piece;
    }
    CHECK(mempool_usable_size(c->pool, block) >= size);
    CHECK(is_stamped(block, piece_size(piece), piece_stamp(piece)));
    return churn_stamp(c, block, size);
}

static inline void churn_free(struct churn *c, uint64_t piece)
{
    void *block = piece_verify(c->pool, piece);
    if (rng_below(&c->random, 2) == 0) {
        OK(mempool_free(c->pool, block));
    } else {
        OK(mempool_free_sized(c->pool, block, piece_size(piece)));
    }
}

/* One random thing done to one random slot. */
static inline void churn_step(struct churn *c)
{
    slot_t *slot = &c->own[rng_below(&c->random, c->own_count)];
    uint64_t piece = atomic_exchange(slot, 0);
    if (piece == 0) {
        piece = churn_allocate(c);
    } else {
        switch (rng_below(&c->random, 8)) {
        case 0:
        case 1:
        case 2:
            churn_free(c, piece);
            piece = 0;
            break;
        case 3:
        case 4:
            piece = churn_resize(c, piece);
            break;
        case 5:
            piece = churn_expand(c, piece);
            break;
        default:
            if (c->exchange != NULL) {
                piece = atomic_exchange(&c->exchange[rng_below(&c->random, c->exchange_count)], piece);
            }
        }
    }
    atomic_store(slot, piece);
    c->steps++;
}

/* At least a little, however late it gets a processor. */
static inline void churn_until(struct churn *c, uint64_t deadline_ns)
{
    do {
        for (int i = 0; i < 64; i++) {
            churn_step(c);
        }
    } while (now_ns() < deadline_ns);
}

/* Verifies and frees what the slots hold. Returns how many blocks. */
static inline uint64_t drain(mempool_t *pool, slot_t *slots, size_t count)
{
    uint64_t freed = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t piece = atomic_exchange(&slots[i], 0);
        if (piece != 0) {
            OK(mempool_free(pool, piece_verify(pool, piece)));
            freed++;
        }
    }
    return freed;
}

#endif
