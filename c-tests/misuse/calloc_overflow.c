/* A product that does not fit.
 *
 * expect: MEMPOOL_ERR_OUT_OF_MEMORY ENOMEM
 *   "mempool_calloc: count times size is more than any pool has: look how the two were computed"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    volatile size_t count = SIZE_MAX / 4; /* volatile: the compiler would warn */
    return MISTAKE_NULL(mempool_calloc(pool, count, 8));
}
