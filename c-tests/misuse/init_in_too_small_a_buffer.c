/* A buffer that is too short.
 *
 * expect: MEMPOOL_ERR_BUFFER_TOO_SMALL
 *   "mempool_init: the region has 100 bytes, a pool with these options needs {needed}: give it more, or ask
 *   mempool_min_len"
 */
#include "misuse.h"

int main(void)
{
    TELL(needed, mempool_min_len(NULL));
    mempool_t *made;
    return MISTAKE(mempool_init(buffer, 100, NULL, &made));
}
