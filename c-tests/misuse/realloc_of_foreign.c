/* A block of the C library's.
 *
 * expect: MEMPOOL_ERR_FOREIGN_POINTER EINVAL
 *   "mempool_realloc: pointer {block:x} lies outside the pool's blocks [{first:x}, {end:x}): it belongs to another
 *   allocator or pool: use it there"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    tell_range();
    unsigned char *block = malloc(100);
    TELL_ADDRESS(block);
    int result = MISTAKE_NULL(mempool_realloc(pool, block, 200));
    free(block);
    return result;
}
