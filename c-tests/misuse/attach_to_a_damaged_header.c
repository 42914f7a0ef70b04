/* A header that somebody has written to.
 *
 * expect: MEMPOOL_ERR_CORRUPTED
 *   "mempool_attach: corrupted at offset 0: the header does not match its checksum: make the pool anew"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    pool = NULL;
    for (size_t i = 16; i < 64; i++)
        buffer[i] ^= 0x40;
    mempool_t *found;
    return MISTAKE(mempool_attach(buffer, sizeof buffer, NULL, &found));
}
