/* Freed though all blocks were.
 *
 * expect: MEMPOOL_ERR_NOT_ALLOCATED
 *   "mempool_free: no live block at offset {block}: above top, where no block is (freed already?)"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    unsigned char *block = get(100);
    TELL_OFFSET(block);
    OK(mempool_free_all(pool));
    return MISTAKE(mempool_free(pool, block));
}
