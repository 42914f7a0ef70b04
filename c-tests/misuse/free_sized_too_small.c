/* A size for which there is a smaller block.
 *
 * expect: MEMPOOL_ERR_INVALID_ARGUMENT
 *   "mempool_free_sized: the block of {bytes} bytes at offset {block} was never asked for as 8 bytes: give the size
 *   that was last asked for, or call mempool_free"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    unsigned char *block = get(1000);
    TELL_OFFSET(block);
    TELL(bytes, mempool_usable_size(pool, block));
    return MISTAKE(mempool_free_sized(pool, block, 8));
}
