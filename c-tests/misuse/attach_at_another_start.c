/* The pool begins somewhere else.
 *
 * expect: MEMPOOL_ERR_NOT_A_POOL
 *   "mempool_attach: not a pool: no header at the start of the buffer: init it first"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    options.start = 4096;
    mempool_t *found;
    return MISTAKE(mempool_attach(buffer, sizeof buffer, &options, &found));
}
