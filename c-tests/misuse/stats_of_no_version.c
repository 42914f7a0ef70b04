/* Stats without their size.
 *
 * expect: MEMPOOL_ERR_INVALID_ARGUMENT
 *   "mempool_stats: invalid argument: struct_size is less than any version's: start from MEMPOOL_OPTIONS_INIT or
 *   MEMPOOL_STATS_INIT"
 */
#include "misuse.h"

int main(void)
{
    begin(0);
    mempool_stats_t stats;
    memset(&stats, 0, sizeof stats);
    return MISTAKE(mempool_stats(pool, &stats));
}
