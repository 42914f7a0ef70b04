/* An address at which no block can begin.
 *
 * expect: MEMPOOL_ERR_NOT_ALLOCATED
 *   "mempool_free: no live block at offset {inside}: not aligned as blocks are: give the address that the pool gave"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    unsigned char *inside = get(100) + 1;
    TELL_OFFSET(inside);
    return MISTAKE(mempool_free(pool, inside));
}
