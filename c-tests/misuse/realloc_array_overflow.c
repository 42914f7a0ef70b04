/* A product that does not fit; the block stays.
 *
 * expect: MEMPOOL_ERR_OUT_OF_MEMORY ENOMEM
 *   "mempool_realloc_array: count times size is more than any pool has: look how the two were computed"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    unsigned char *block = get(100);
    volatile size_t count = SIZE_MAX / 4;
    return MISTAKE_NULL(mempool_realloc_array(pool, block, count, 8));
}
