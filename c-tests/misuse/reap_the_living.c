/* The blocks of a process that lives.
 *
 * expect: MEMPOOL_ERR_BUSY
 *   "mempool_reap: in use: the process lives, and its blocks are its own"
 */
#include "misuse.h"

int main(void)
{
    begin(MEMPOOL_OWNER_TAGS);
    get(100);
    return MISTAKE(mempool_reap(pool, getpid(), NULL, NULL, NULL));
}
