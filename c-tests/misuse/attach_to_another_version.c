/* A pool of a later library.
 *
 * expect: MEMPOOL_ERR_INCOMPATIBLE
 *   "mempool_attach: incompatible pool: made by a library with another layout version: use that version, or make the
 *   pool anew"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    pool = NULL;
    buffer[8] ^= 0x40; /* the layout's version follows the magic */
    mempool_t *found;
    return MISTAKE(mempool_attach(buffer, sizeof buffer, NULL, &found));
}
