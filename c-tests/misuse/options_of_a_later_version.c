/* An option behind those that there are.
 *
 * expect: MEMPOOL_ERR_INVALID_ARGUMENT
 *   "mempool_init: invalid argument: an option that only a later version of the library knows is set"
 */
#include "misuse.h"

int main(void)
{
    struct {
        mempool_options_t known;
        uint64_t unknown;
    } options = {MEMPOOL_OPTIONS_INIT, 1};
    options.known.struct_size = sizeof options;
    mempool_t *made;
    return MISTAKE(mempool_init(buffer, sizeof buffer, &options.known, &made));
}
