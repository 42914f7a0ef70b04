/* A slot that holds no offset.
 *
 * expect: MEMPOOL_ERR_FOREIGN_POINTER
 *   "mempool_free_from: pointer {block:x} lies outside the pool's blocks [{first:x}, {end:x}): it belongs to another
 *   allocator or pool: use it there"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    tell_range();
    uint64_t *slot = mempool_calloc(pool, 1, 64);
    *slot = (uint64_t)1 << 40;
    unsigned char *block = buffer + *slot;
    TELL_ADDRESS(block);
    return MISTAKE(mempool_free_from(pool, slot));
}
