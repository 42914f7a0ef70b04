/* Freed twice; it lies in the thread's cache.
 *
 * expect: MEMPOOL_ERR_NOT_ALLOCATED
 *   "mempool_free: no live block at offset {block}: the block there is free (freed twice?)"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    unsigned char *block = get(100);
    TELL_OFFSET(block);
    OK(mempool_free(pool, block));
    return MISTAKE(mempool_free(pool, block));
}
