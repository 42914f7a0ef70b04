/* No pool.
 *
 * expect: MEMPOOL_ERR_INVALID_ARGUMENT EINVAL
 *   "mempool_malloc: invalid argument: pool is NULL: mempool_init, mempool_open and mempool_attach make handles"
 */
#include "misuse.h"

int main(void)
{
    mempool_t *none = NULL; /* init was forgotten */
    return MISTAKE_NULL(mempool_malloc(none, 100));
}
