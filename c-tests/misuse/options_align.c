/* Align.
 *
 * expect: MEMPOOL_ERR_INVALID_ARGUMENT
 *   "mempool_init: invalid argument: align must be a power of two from 8 to 65536, or 0 for 16"
 */
#include "misuse.h"

int main(void)
{
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    options.align = 24;
    mempool_t *made;
    return MISTAKE(mempool_init(buffer, sizeof buffer, &options, &made));
}
