/* Fewer bytes than a header has.
 *
 * expect: MEMPOOL_ERR_NOT_A_POOL
 *   "mempool_peek: not a pool: no whole header among these bytes: give more of them"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    uint64_t len;
    return MISTAKE(mempool_peek(buffer, 32, &len));
}
