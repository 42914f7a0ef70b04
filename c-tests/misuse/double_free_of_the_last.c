/* Freed twice; there is no cache, and no block above it.
 *
 * expect: MEMPOOL_ERR_NOT_ALLOCATED
 *   "mempool_free: no live block at offset {block}: above top, where no block is (freed already?)"
 */
#include "misuse.h"

int main(void)
{
    begin(MEMPOOL_NO_THREAD_CACHES);
    unsigned char *block = get(100);
    TELL_OFFSET(block);
    OK(mempool_free(pool, block));
    return MISTAKE(mempool_free(pool, block));
}
