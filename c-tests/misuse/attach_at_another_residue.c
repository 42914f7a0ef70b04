/* The bytes of a pool, moved by a few.
 *
 * expect: MEMPOOL_ERR_INCOMPATIBLE
 *   "mempool_attach: incompatible pool: mapped at another residue of align: map it as it was when it was made"
 */
#include "misuse.h"

static _Alignas(4096) unsigned char other_buffer[POOL_LEN];

int main(void)
{
    begin(0);
    pool = NULL;
    memcpy(other_buffer + 8, buffer, sizeof buffer - 8);
    mempool_t *found;
    return MISTAKE(mempool_attach(other_buffer + 8, sizeof other_buffer - 8, NULL, &found));
}
