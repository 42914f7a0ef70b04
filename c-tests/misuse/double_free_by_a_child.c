/* Freed by a forked child, and then by its parent, too.
 *
 * expect: MEMPOOL_ERR_NOT_ALLOCATED
 *   "mempool_free: no live block at offset {block}: the block there is free (freed twice?)"
 */
#include "misuse.h"

int main(void)
{
    mempool_options_t options = options_of(0);
    pool = new_pool(map_shared(POOL_LEN), POOL_LEN, &options);
    unsigned char *block = get(100);
    TELL_OFFSET(block);
    pid_t child = fork_process();
    if (child == 0)
        _exit(mempool_free(pool, block) != MEMPOOL_OK);
    wait_ok(child);
    return MISTAKE(mempool_free(pool, block));
}
