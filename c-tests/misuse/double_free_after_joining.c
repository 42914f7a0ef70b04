/* Freed twice; it has become part of a larger free block.
 *
 * expect: MEMPOOL_ERR_NOT_ALLOCATED
 *   "mempool_free: no live block at offset {block}: inside a block, or of one freed and joined to another: give the
 *   address that the pool gave"
 */
#include "misuse.h"

int main(void)
{
    begin(MEMPOOL_NO_THREAD_CACHES);
    unsigned char *left = get(200000), *block = get(200000);
    get(100);
    TELL_OFFSET(block);
    OK(mempool_free(pool, left));
    OK(mempool_free(pool, block));
    return MISTAKE(mempool_free(pool, block));
}
