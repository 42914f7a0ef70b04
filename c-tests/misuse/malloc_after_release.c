/* A call by the handle of a pool that has ended.
 *
 * expect: MEMPOOL_ERR_NOT_A_POOL EINVAL
 *   "mempool_malloc: not a pool: this handle's pool was released, or another one was made in its place: detach it,
 *   and attach anew"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    get(100);
    mempool_t *old = pool;
    OK(mempool_release(pool));
    pool = NULL;
    return MISTAKE_NULL(mempool_malloc(old, 100));
}
