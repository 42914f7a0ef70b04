/* A pool that does not know whose blocks are.
 *
 * expect: MEMPOOL_ERR_INVALID_ARGUMENT
 *   "mempool_reap: invalid argument: the pool was made without MEMPOOL_OWNER_TAGS: init it with that flag"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    return MISTAKE(mempool_reap(pool, 0, NULL, NULL, NULL));
}
