/* More granules than there are numbers; nothing is touched.
 *
 * expect: MEMPOOL_ERR_BUFFER_TOO_LARGE
 *   "mempool_init: too many granules of 8 bytes: use align 256 or more, or a smaller end"
 */
#include "misuse.h"

int main(void)
{
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    options.align = 8;
    mempool_t *made;
    return MISTAKE(mempool_init(buffer, (size_t)1 << 40, &options, &made));
}
