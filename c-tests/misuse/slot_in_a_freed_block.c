/* A slot in a block that was freed.
 *
 * expect: MEMPOOL_ERR_NOT_ALLOCATED
 *   "mempool_malloc_to: no live block at offset {slot}: the slot lies in no live block: a slot is a uint64_t inside
 *   of one"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    uint64_t *slot = mempool_calloc(pool, 1, 64);
    TELL_OFFSET(slot);
    OK(mempool_free(pool, slot));
    return MISTAKE(mempool_malloc_to(pool, 100, slot));
}
