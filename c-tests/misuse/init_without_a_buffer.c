/* A mapping that failed.
 *
 * expect: MEMPOOL_ERR_INVALID_ARGUMENT
 *   "mempool_init: invalid argument: the buffer is NULL"
 */
#include "misuse.h"

int main(void)
{
    mempool_t *made;
    return MISTAKE(mempool_init(NULL, 100000, NULL, &made));
}
