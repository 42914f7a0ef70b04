/* Freed twice, with its size.
 *
 * expect: MEMPOOL_ERR_NOT_ALLOCATED
 *   "mempool_free_sized: no live block at offset {block}: the block there is free (freed twice?)"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    unsigned char *block = get(100);
    TELL_OFFSET(block);
    OK(mempool_free_sized(pool, block, 100));
    return MISTAKE(mempool_free_sized(pool, block, 100));
}
