/* No block.
 *
 * expect: MEMPOOL_ERR_FOREIGN_POINTER
 *   "mempool_expand: NULL lies outside the pool's blocks: a pointer into a live one is wanted"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    return MISTAKE(mempool_expand(pool, NULL, 100));
}
