/* In place there is no room.
 *
 * expect: MEMPOOL_ERR_OUT_OF_MEMORY
 *   "mempool_expand: no free run of {size} bytes: free blocks, or ask mempool_stats for largest_free"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    get(100);
    unsigned char *block = get(100);
    size_t size = 100000;
    TELL(size, size);
    return MISTAKE(mempool_expand(pool, block, size));
}
