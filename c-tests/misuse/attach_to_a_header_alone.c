/* A buffer without room for a header.
 *
 * expect: MEMPOOL_ERR_NOT_A_POOL
 *   "mempool_attach: not a pool: the buffer is too short to hold one"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    mempool_t *found;
    return MISTAKE(mempool_attach(buffer, 16, NULL, &found));
}
