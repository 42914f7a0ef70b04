/* A start that leaves nothing.
 *
 * expect: MEMPOOL_ERR_BUFFER_TOO_SMALL
 *   "mempool_init: the region has 16 bytes, a pool with these options needs {needed}: give it more, or ask
 *   mempool_min_len"
 */
#include "misuse.h"

int main(void)
{
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    TELL(needed, mempool_min_len(&options));
    options.start = sizeof buffer - 16;
    mempool_t *made;
    return MISTAKE(mempool_init(buffer, sizeof buffer, &options, &made));
}
