/*
 * What is still allocated: every live block of a pool that lies in a file or in shared memory, by size and owner.
 *
 *   cc -std=c11 leaks.c $(pkg-config --cflags --libs mempool) -o leaks && ./leaks /dev/shm/NAME [START]
 *
 * START is where in it the pool begins (0). Exit status: 0 if nothing is live, 1 if something is, 2 if that could not be
 * found out. It may run while others use the pool. `show_leaks` alone is what a program calls at its own end.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <mempool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct leak {
    uint64_t size, offset;
    mempool_owner_t owner;      /* all zero: nobody's, or of a pool without MEMPOOL_OWNER_TAGS */
};

struct leaks {
    mempool_t *pool;
    struct leak *found;
    size_t count, room;
    bool failed;
};

static bool collect(const mempool_block_t *block, void *context) {
    struct leaks *leaks = context;
    if (block->state != MEMPOOL_BLOCK_LIVE)
        return true;
    if (leaks->count == leaks->room) {
        leaks->room = leaks->room ? 2 * leaks->room : 64;
        struct leak *more = realloc(leaks->found, leaks->room * sizeof *more);
        if (!more)
            return leaks->failed = true, false;
        leaks->found = more;
    }
    struct leak *leak = &leaks->found[leaks->count++];
    *leak = (struct leak){block->size, block->offset, {0}};
    mempool_owner_of(leaks->pool, mempool_pointer(leaks->pool, block->offset), &leak->owner);
    return true;
}

static int compare(uint64_t a, uint64_t b) {
    return (a > b) - (a < b);
}

/* The largest first, those of one owner together. */
static int order(const void *left, const void *right) {
    const struct leak *a = left, *b = right;
    int by_size = compare(b->size, a->size), by_pid = a->owner.pid - b->owner.pid;
    int by_start = compare(a->owner.start, b->owner.start);
    return by_size ? by_size : by_pid ? by_pid : by_start ? by_start : compare(a->offset, b->offset);
}

static bool are_alike(const struct leak *a, const struct leak *b) {
    return a->size == b->size && a->owner.pid == b->owner.pid && a->owner.start == b->owner.start;
}

/* Prints what is live. How many blocks; -1 if it could not be found out. */
static long show_leaks(mempool_t *pool, FILE *to) {
    enum { OFFSETS_SHOWN = 6 };
    struct leaks leaks = {.pool = pool};
    if (mempool_walk(pool, collect, &leaks) != MEMPOOL_OK || leaks.failed) {
        fprintf(stderr, "%s\n", leaks.failed ? "no memory to list the blocks" : mempool_last_message());
        free(leaks.found);
        return -1;
    }
    uint64_t bytes = 0;
    for (size_t i = 0; i < leaks.count; i++)
        bytes += leaks.found[i].size;
    fprintf(to, "%zu live blocks, %" PRIu64 " bytes\n", leaks.count, bytes);
    if (leaks.count > 0) {
        qsort(leaks.found, leaks.count, sizeof *leaks.found, order);
        fprintf(to, "%12s %10s %8s  at offset\n", "bytes each", "blocks", "process");
    }
    for (size_t i = 0, next; i < leaks.count; i = next) {
        const struct leak *first = &leaks.found[i];
        for (next = i; next < leaks.count && are_alike(first, &leaks.found[next]); next++)
            ;
        char owner[16] = "-";
        if (first->owner.pid)
            snprintf(owner, sizeof owner, "%d", (int)first->owner.pid);
        fprintf(to, "%12" PRIu64 " %10zu %8s ", first->size, next - i, owner);
        for (size_t j = i; j < next && j < i + OFFSETS_SHOWN; j++)
            fprintf(to, " %" PRIu64, leaks.found[j].offset);
        fprintf(to, next - i > OFFSETS_SHOWN ? " ...\n" : "\n");
    }
    free(leaks.found);
    return (long)leaks.count;
}

int main(int argc, char **argv) {
    if (argc < 2 || argc > 3)
        return fprintf(stderr, "usage: %s FILE [START]\n", argv[0]), 2;
    int fd = open(argv[1], O_RDWR);
    struct stat file;
    if (fd < 0 || fstat(fd, &file))
        return perror(argv[1]), 2;
    size_t len = (size_t)file.st_size;
    void *memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return perror(argv[1]), 2;
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    options.start = argc == 3 ? strtoull(argv[2], NULL, 0) : 0;
    mempool_t *pool;
    if (mempool_attach(memory, len, &options, &pool) != MEMPOOL_OK)
        return fprintf(stderr, "%s: %s\n", argv[1], mempool_last_message()), 2;
    long count = show_leaks(pool, stdout);
    mempool_detach(pool);
    munmap(memory, len);
    return count < 0 ? 2 : count > 0;
}
