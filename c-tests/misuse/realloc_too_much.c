/* More than there is; the block stays.
 *
 * expect: MEMPOOL_ERR_OUT_OF_MEMORY ENOMEM
 *   "mempool_realloc: no free run of {size} bytes: free blocks, or ask mempool_stats for largest_free"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    unsigned char *block = get(100);
    size_t size = POOL_LEN - 1;
    TELL(size, size);
    return MISTAKE_NULL(mempool_realloc(pool, block, size));
}
