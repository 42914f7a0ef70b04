/* A pool of another architecture.
 *
 * expect: MEMPOOL_ERR_INCOMPATIBLE
 *   "mempool_attach: incompatible pool: made on another architecture, pointer width or C library: share it among
 *   programs of one kind"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    pool = NULL;
    buffer[12] ^= 0x40; /* the machine follows the version */
    mempool_t *found;
    return MISTAKE(mempool_attach(buffer, sizeof buffer, NULL, &found));
}
