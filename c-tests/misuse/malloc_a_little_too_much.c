/* More than is left, but not than the pool has.
 *
 * expect: MEMPOOL_ERR_OUT_OF_MEMORY ENOMEM
 *   "mempool_malloc: no free run of {size} bytes: free blocks, or ask mempool_stats for largest_free"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    get(POOL_LEN / 2);
    size_t size = POOL_LEN / 2 + 1;
    TELL(size, size);
    return MISTAKE_NULL(mempool_malloc(pool, size));
}
