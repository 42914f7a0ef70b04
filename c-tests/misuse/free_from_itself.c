/* A slot that names the block it lies in.
 *
 * expect: MEMPOOL_ERR_INVALID_ARGUMENT
 *   "mempool_free_from: invalid argument: the slot lies in the block that it would free"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    uint64_t *slot = mempool_calloc(pool, 1, 64);
    *slot = mempool_offset(pool, slot);
    return MISTAKE(mempool_free_from(pool, slot));
}
