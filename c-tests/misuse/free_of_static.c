/* A static array.
 *
 * expect: MEMPOOL_ERR_FOREIGN_POINTER
 *   "mempool_free: pointer {block:x} lies outside the pool's blocks [{first:x}, {end:x}): it belongs to another
 *   allocator or pool: use it there"
 */
#include "misuse.h"

static _Alignas(4096) unsigned char other_buffer[POOL_LEN];

int main(void)
{
    begin(0);
    tell_range();
    unsigned char *block = other_buffer;
    TELL_ADDRESS(block);
    return MISTAKE(mempool_free(pool, block));
}
