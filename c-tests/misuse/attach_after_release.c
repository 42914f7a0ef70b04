/* A pool that has ended.
 *
 * expect: MEMPOOL_ERR_NOT_A_POOL
 *   "mempool_attach: not a pool: no header at the start of the buffer: init it first"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    OK(mempool_release(pool));
    pool = NULL;
    mempool_t *found;
    return MISTAKE(mempool_attach(buffer, sizeof buffer, NULL, &found));
}
