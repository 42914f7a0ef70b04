/* A slot that names a block.
 *
 * expect: MEMPOOL_ERR_EXISTS
 *   "mempool_malloc_to: the slot at offset {slot} is not 0: mempool_free_from what it holds first"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    uint64_t *slot = mempool_calloc(pool, 1, 64);
    TELL_OFFSET(slot);
    OK(mempool_malloc_to(pool, 100, slot));
    return MISTAKE(mempool_malloc_to(pool, 100, slot));
}
