/* The old address, after realloc gave another.
 *
 * expect: MEMPOOL_ERR_NOT_ALLOCATED EINVAL
 *   "mempool_realloc: no live block at offset {block}: the block there is free (freed twice?)"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    get(100); /* no room behind the next */
    unsigned char *block = get(100);
    TELL_OFFSET(block);
    CHECK(mempool_realloc(pool, block, 1000) != block);
    return MISTAKE_NULL(mempool_realloc(pool, block, 2000));
}
