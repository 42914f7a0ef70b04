/* Each thread has its own last message.
 *
 * expect: MEMPOOL_ERR_NOT_ALLOCATED
 *   "mempool_free: no live block at offset {block}: the block there is free (freed twice?)"
 */
#include "misuse.h"

#include <pthread.h>

static void *fail_otherwise(void *unused)
{
    CHECK(mempool_last_error() == MEMPOOL_OK && *mempool_last_message() == '\0');
    CHECK(mempool_malloc(pool, 0) == NULL && mempool_last_error() == MEMPOOL_ERR_INVALID_ARGUMENT);
    return unused;
}

int main(void)
{
    begin(0);
    unsigned char *block = get(100);
    TELL_OFFSET(block);
    OK(mempool_free(pool, block));
    mempool_status_t status = mempool_free(pool, block);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, fail_otherwise, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    return MISTAKE(status);
}
