/* A block of the C library's.
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
    unsigned char *block = malloc(100);
    TELL_ADDRESS(block);
    int result = MISTAKE(mempool_free(pool, block));
    free(block);
    return result;
}
