/* An address that the pool has not given out yet.
 *
 * expect: MEMPOOL_ERR_NOT_ALLOCATED
 *   "mempool_free: no live block at offset {block}: above top, where no block is (freed already?)"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    unsigned char *block = get(100) + POOL_LEN / 2;
    TELL_OFFSET(block);
    return MISTAKE(mempool_free(pool, block));
}
