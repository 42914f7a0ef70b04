/* Asked for a length with options that no pool can have.
 *
 * expect: MEMPOOL_ERR_INVALID_ARGUMENT
 *   "mempool_min_len: invalid argument: align must be a power of two from 8 to 65536, or 0 for 16"
 */
#include "misuse.h"

int main(void)
{
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    options.align = 7;
    CHECK(mempool_min_len(&options) == 0);
    return MISTAKE(mempool_last_error());
}
