/*
 * One pool, two processes, two addresses: the child allocates and writes, the parent reads and frees.
 *
 *   cc -std=c11 shared.c $(pkg-config --cflags --libs mempool) -lrt -o shared && ./shared
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <mempool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { POOL_BYTES = 1 << 20 };

static void *map(int fd) {
    void *memory = mmap(NULL, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        perror("mmap"), exit(1);
    return memory;
}

static void need(bool right) {
    if (!right)
        fprintf(stderr, "%s\n", mempool_last_message()), exit(1);
}

int main(void) {
    char name[64];
    snprintf(name, sizeof name, "/mempool-shared-%d", (int)getpid());
    int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600), ends[2];
    if (fd < 0 || shm_unlink(name) || pipe(ends))
        return perror("shared memory"), 1;

    /* Not ftruncate: it leaves holes, and who first writes to one while the file system is full gets a SIGBUS, in the
     * middle of any call or of his own code. No library survives that. This takes the memory now, or says that there
     * is none. (What also must not be: that somebody makes the file shorter while it is mapped.) */
    errno = posix_fallocate(fd, 0, POOL_BYTES);
    if (errno != 0)
        return perror("memory for the pool"), 1;

    mempool_t *pool;
    void *memory = map(fd);
    need(mempool_init(memory, POOL_BYTES, NULL, &pool) == MEMPOOL_OK);

    pid_t child = fork();
    if (child == 0) {                       /* the inherited mapping stays, so the new one lies elsewhere */
        need(mempool_detach(pool) == MEMPOOL_OK);
        need(mempool_attach(map(fd), POOL_BYTES, NULL, &pool) == MEMPOOL_OK);
        char *text = mempool_malloc(pool, 64);
        need(text != NULL);
        snprintf(text, 64, "written by process %d at address %p", (int)getpid(), (void *)text);
        uint64_t offset = mempool_offset(pool, text);       /* an address means nothing to others, an offset does */
        need(mempool_detach(pool) == MEMPOOL_OK);           /* the block stays */
        return write(ends[1], &offset, sizeof offset) != sizeof offset;
    }

    uint64_t offset;
    close(ends[1]);
    if (child < 0 || read(ends[0], &offset, sizeof offset) != sizeof offset)
        return 1;
    char *text = mempool_pointer(pool, offset);
    printf("offset %" PRIu64 ": %s, read by process %d at %p\n", offset, text, (int)getpid(), (void *)text);
    need(mempool_free(pool, text) == MEMPOOL_OK);

    int status;
    waitpid(child, &status, 0);
    need(mempool_check(pool) == MEMPOOL_OK && mempool_detach(pool) == MEMPOOL_OK);
    return status != 0;
}
