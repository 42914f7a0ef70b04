/* A slot at an odd address.
 *
 * expect: MEMPOOL_ERR_NOT_ALLOCATED
 *   "mempool_malloc_to: no live block at offset {inside}: a slot is aligned to 8 bytes"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    unsigned char *inside = mempool_calloc(pool, 1, 64);
    inside += 4;
    TELL_OFFSET(inside);
    return MISTAKE(mempool_malloc_to(pool, 100, (uint64_t *)(void *)inside));
}
