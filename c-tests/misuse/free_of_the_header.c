/* The pool's own memory.
 *
 * expect: MEMPOOL_ERR_FOREIGN_POINTER
 *   "mempool_free: pointer {block:x} lies outside the pool's blocks [{first:x}, {end:x}): it belongs to another
 *   allocator or pool: use it there"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    tell_range();
    unsigned char *block = buffer;
    TELL_ADDRESS(block);
    return MISTAKE(mempool_free(pool, block));
}
