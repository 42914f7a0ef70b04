/* examples/leaks.c tells exactly what is live in a pool in a file: to whom it belongs, the living and the dead, in a
 * pool that knows it; while others have the pool, too; nothing of what is free or cached. */
#define main run_example
#include "../../examples/leaks.c"
#undef main

#include "test.h"

enum { BYTES = 1 << 20 };

static char path[64];

/* What the example prints, and its exit status. */
static int run(char *start, char *text, size_t room)
{
    int ends[2];
    CHECK(pipe(ends) == 0);
    pid_t child = fork_process();
    if (child == 0) {
        char *arguments[] = {(char *)"leaks", path, start, NULL};
        CHECK(dup2(ends[1], STDOUT_FILENO) >= 0 && dup2(ends[1], STDERR_FILENO) >= 0);
        exit(run_example(start ? 3 : 2, arguments));
    }
    CHECK(close(ends[1]) == 0);
    size_t len = 0;
    for (ssize_t got; (got = read(ends[0], text + len, room - 1 - len)) > 0;)
        len += (size_t)got;
    text[len] = '\0';
    CHECK(close(ends[0]) == 0);
    int status = wait_status(child);
    CHECK(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void must_say(char *start, int status, const char *expected)
{
    char text[4096];
    int got = run(start, text, sizeof text);
    if (got != status || strcmp(text, expected) != 0) {
        fprintf(stderr, "wanted %d:\n%sgot %d:\n%s", status, expected, got, text);
        CHECK(!"the example says something else");
    }
}

static mempool_t *make(unsigned char *memory, size_t start, uint32_t flags)
{
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    options.start = start;
    options.flags = flags;
    return new_pool(memory, BYTES, &options);
}

static uint64_t offset_of(mempool_t *pool, size_t size)
{
    void *block = mempool_malloc(pool, size);
    CHECK(block != NULL);
    return mempool_offset(pool, block);
}

static int by_offset(const void *a, const void *b)
{
    return compare(*(const uint64_t *)a, *(const uint64_t *)b);
}

static void test_sizes(unsigned char *memory)
{
    mempool_t *pool = make(memory, 0, 0);
    must_say(NULL, 0, "0 live blocks, 0 bytes\n");

    uint64_t at[8];
    for (size_t i = 0; i < COUNT_OF(at); i++)
        at[i] = offset_of(pool, 100);
    uint64_t large = offset_of(pool, 100000), freed = offset_of(pool, 5000);
    OK(mempool_free(pool, mempool_pointer(pool, freed)));
    qsort(at, COUNT_OF(at), sizeof *at, by_offset);
    char expected[512];
    snprintf(expected, sizeof expected,
             "9 live blocks, %zu bytes\n"
             "  bytes each     blocks  process  at offset\n"
             "%12zu          1        -  %llu\n"
             "%12d          8        -  %llu %llu %llu %llu %llu %llu ...\n",
             mempool_usable_size(pool, mempool_pointer(pool, large)) + 8 * 112,
             mempool_usable_size(pool, mempool_pointer(pool, large)), (unsigned long long)large, 112,
             (unsigned long long)at[0], (unsigned long long)at[1], (unsigned long long)at[2],
             (unsigned long long)at[3], (unsigned long long)at[4], (unsigned long long)at[5]);
    must_say(NULL, 1, expected);
    OK(mempool_free_all(pool));
    must_say(NULL, 0, "0 live blocks, 0 bytes\n");
    OK(mempool_detach(pool));
}

static void test_owners(unsigned char *memory)
{
    mempool_t *pool = make(memory, 4096, MEMPOOL_OWNER_TAGS);
    uint64_t *theirs = map_shared(sizeof *theirs);
    uint64_t mine = offset_of(pool, 64), nobodys = offset_of(pool, 64);
    OK(mempool_abandon(pool, mempool_pointer(pool, nobodys)));
    pid_t child = fork_process();
    if (child == 0) {
        *theirs = offset_of(pool, 64);
        raise(SIGKILL);
    }
    wait_killed(child);
    CHECK(child > getpid()); /* so the order is known */
    char expected[512], start[] = "4096";
    snprintf(expected, sizeof expected,
             "3 live blocks, 192 bytes\n"
             "  bytes each     blocks  process  at offset\n"
             "          64          1        -  %llu\n"
             "          64          1 %8d  %llu\n"
             "          64          1 %8d  %llu\n",
             (unsigned long long)nobodys, (int)getpid(), (unsigned long long)mine, (int)child,
             (unsigned long long)*theirs);
    must_say(start, 1, expected);
    OK(mempool_detach(pool));
}

static void test_failures(unsigned char *memory)
{
    char text[4096];
    memset(memory, 0, BYTES);
    CHECK(run(NULL, text, sizeof text) == 2 && strstr(text, "mempool_attach: not a pool") != NULL);
    CHECK(unlink(path) == 0);
    CHECK(run(NULL, text, sizeof text) == 2 && strstr(text, "No such file") != NULL);
}

int main(void)
{
    snprintf(path, sizeof path, "/dev/shm/mempool-leaks-%ld", (long)getpid());
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK(fd >= 0 && ftruncate(fd, BYTES) == 0);
    unsigned char *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(memory != MAP_FAILED && close(fd) == 0);
    test_sizes(memory);
    test_owners(memory);
    test_failures(memory);
    return PASSED();
}
