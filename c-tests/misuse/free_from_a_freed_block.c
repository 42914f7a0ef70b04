/* A slot that names a block which was freed otherwise.
 *
 * expect: MEMPOOL_ERR_NOT_ALLOCATED
 *   "mempool_free_from: no live block at offset {block}: the block there is free (freed twice?)"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    uint64_t *slot = mempool_calloc(pool, 1, 64);
    OK(mempool_malloc_to(pool, 100, slot));
    unsigned char *block = mempool_pointer(pool, *slot);
    TELL_OFFSET(block);
    OK(mempool_free(pool, block));
    return MISTAKE(mempool_free_from(pool, slot));
}
