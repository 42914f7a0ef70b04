/* Nobody to show the blocks to.
 *
 * expect: MEMPOOL_ERR_INVALID_ARGUMENT
 *   "mempool_walk: invalid argument: visit is NULL: it is called for each block"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    return MISTAKE(mempool_walk(pool, NULL, NULL));
}
