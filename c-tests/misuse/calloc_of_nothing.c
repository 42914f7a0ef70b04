/* An array of no elements.
 *
 * expect: MEMPOOL_ERR_INVALID_ARGUMENT EINVAL
 *   "mempool_calloc: invalid argument: size is 0: ask for 1 byte or more"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    return MISTAKE_NULL(mempool_calloc(pool, 0, 8));
}
