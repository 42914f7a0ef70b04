/* Min_split.
 *
 * expect: MEMPOOL_ERR_INVALID_ARGUMENT
 *   "mempool_init: invalid argument: min_split must be more than 8, or 0 for 16"
 */
#include "misuse.h"

int main(void)
{
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    options.min_split = 8;
    mempool_t *made;
    return MISTAKE(mempool_init(buffer, sizeof buffer, &options, &made));
}
