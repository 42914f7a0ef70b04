/* Size 0: it does not free.
 *
 * expect: MEMPOOL_ERR_INVALID_ARGUMENT EINVAL
 *   "mempool_realloc: invalid argument: size is 0: ask for 1 byte or more"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    unsigned char *block = get(100);
    return MISTAKE_NULL(mempool_realloc(pool, block, 0));
}
