/* No block.
 *
 * expect: MEMPOOL_ERR_FOREIGN_POINTER
 *   "mempool_expand: the pointer is NULL: it must point into a live block of the pool"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    return MISTAKE(mempool_expand(pool, NULL, 100));
}
