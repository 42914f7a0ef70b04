/* A slot that is a variable.
 *
 * expect: MEMPOOL_ERR_FOREIGN_POINTER
 *   "mempool_malloc_to: pointer {slot:x} lies outside the pool's blocks [{first:x}, {end:x}): it belongs to another
 *   allocator or pool: use it there"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    tell_range();
    uint64_t variable = 0, *slot = &variable;
    TELL_ADDRESS(slot);
    return MISTAKE(mempool_malloc_to(pool, 100, slot));
}
