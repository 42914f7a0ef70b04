/* A mapping that is too short.
 *
 * expect: MEMPOOL_ERR_INCOMPATIBLE
 *   "mempool_attach: the buffer has {len} bytes, the pool in it ends at {end}: map all of it"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    size_t len = sizeof buffer / 2;
    TELL(len, len);
    TELL(end, sizeof buffer);
    mempool_t *found;
    return MISTAKE(mempool_attach(buffer, len, NULL, &found));
}
