/* A negative size.
 *
 * expect: MEMPOOL_ERR_OUT_OF_MEMORY ENOMEM
 *   "mempool_malloc: no free run of {size} bytes: free blocks, or ask mempool_stats for largest_free"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    volatile size_t size = (size_t)-5;
    TELL(size, size);
    return MISTAKE_NULL(mempool_malloc(pool, size));
}
