/* Bytes of something else.
 *
 * expect: MEMPOOL_ERR_NOT_A_POOL
 *   "mempool_attach: not a pool: no header at the start of the buffer: init it first"
 */
#include "misuse.h"

int main(void)
{
    memset(buffer, 0x5A, sizeof buffer);
    mempool_t *found;
    return MISTAKE(mempool_attach(buffer, sizeof buffer, NULL, &found));
}
