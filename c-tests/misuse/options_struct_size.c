/* Struct_size not set.
 *
 * expect: MEMPOOL_ERR_INVALID_ARGUMENT
 *   "mempool_init: invalid argument: struct_size is less than any version's: start from MEMPOOL_OPTIONS_INIT or
 *   MEMPOOL_STATS_INIT"
 */
#include "misuse.h"

int main(void)
{
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    options.struct_size = 0;
    mempool_t *made;
    return MISTAKE(mempool_init(buffer, sizeof buffer, &options, &made));
}
