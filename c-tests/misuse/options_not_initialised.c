/* Options that nobody has set.
 *
 * expect: MEMPOOL_ERR_INVALID_ARGUMENT
 *   "mempool_init: invalid argument: struct_size is more than 4096: start from MEMPOOL_OPTIONS_INIT or
 *   MEMPOOL_STATS_INIT"
 */
#include "misuse.h"

int main(void)
{
    mempool_options_t options;
    memset(&options, 0xAA, sizeof options);
    mempool_t *made;
    return MISTAKE(mempool_init(buffer, sizeof buffer, &options, &made));
}
