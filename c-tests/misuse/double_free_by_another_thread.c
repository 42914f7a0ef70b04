/* Freed here, and then by another thread, too.
 *
 * expect: MEMPOOL_ERR_NOT_ALLOCATED
 *   "mempool_free: no live block at offset {block}: the block there is free (freed twice?)"
 */
#include "misuse.h"

#include <pthread.h>

static void *free_again(void *block)
{
    CHECK(MISTAKE(mempool_free(pool, block)) == 0);
    return NULL;
}

int main(void)
{
    begin(0);
    unsigned char *block = get(100);
    TELL_OFFSET(block);
    OK(mempool_free(pool, block));
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, free_again, block) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    return 0;
}
