/* Size 0.
 *
 * expect: MEMPOOL_ERR_INVALID_ARGUMENT EINVAL
 *   "mempool_malloc: invalid argument: size is 0: ask for 1 byte or more"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    return MISTAKE_NULL(mempool_malloc(pool, 0));
}
