/* What fork says when it fails.
 *
 * expect: MEMPOOL_ERR_INVALID_ARGUMENT
 *   "mempool_reap: invalid argument: pid must be a process's number, or 0 for all"
 */
#include "misuse.h"

int main(void)
{
    begin(MEMPOOL_OWNER_TAGS);
    get(100);
    return MISTAKE(mempool_reap(pool, -1, NULL, NULL, NULL));
}
