/* A block of another pool's.
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
    mempool_t *other = new_pool(other_buffer, sizeof other_buffer, NULL);
    unsigned char *block = mempool_malloc(other, 100);
    TELL_ADDRESS(block);
    return MISTAKE(mempool_free(pool, block));
}
