/* Nowhere to put the handle.
 *
 * expect: MEMPOOL_ERR_INVALID_ARGUMENT
 *   "mempool_init: invalid argument: out is NULL: it says where the handle goes"
 */
#include "misuse.h"

int main(void)
{
    return MISTAKE(mempool_init(buffer, sizeof buffer, NULL, NULL));
}
