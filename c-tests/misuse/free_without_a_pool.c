/* No pool.
 *
 * expect: MEMPOOL_ERR_INVALID_ARGUMENT
 *   "mempool_free: invalid argument: pool is NULL: mempool_init, mempool_open and mempool_attach make handles"
 */
#include "misuse.h"

int main(void)
{
    int variable;
    return MISTAKE(mempool_free(NULL, &variable));
}
