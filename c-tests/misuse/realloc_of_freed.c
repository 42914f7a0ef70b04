/* Resized after it was freed.
 *
 * expect: MEMPOOL_ERR_NOT_ALLOCATED EINVAL
 *   "mempool_realloc: no live block at offset {block}: the block there is free (freed twice?)"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    unsigned char *block = get(100);
    TELL_OFFSET(block);
    OK(mempool_free(pool, block));
    return MISTAKE_NULL(mempool_realloc(pool, block, 200));
}
