/* An alignment that is none.
 *
 * expect: MEMPOOL_ERR_INVALID_ARGUMENT EINVAL
 *   "mempool_aligned_alloc: invalid argument: alignment must be a power of two"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    volatile size_t alignment = 24;
    return MISTAKE_NULL(mempool_aligned_alloc(pool, alignment, 100));
}
