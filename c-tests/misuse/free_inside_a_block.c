/* An address inside of a block.
 *
 * expect: MEMPOOL_ERR_NOT_ALLOCATED
 *   "mempool_free: no live block at offset {inside}: inside a block, or of one freed and joined to another: give the
 *   address that the pool gave"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    unsigned char *inside = get(100) + 32;
    TELL_OFFSET(inside);
    return MISTAKE(mempool_free(pool, inside));
}
