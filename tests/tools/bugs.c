/* Mistakes with a pool's blocks, one for each word on the command line. Without a tool all of them go unnoticed; the
 * program ends with "unnoticed". Each mistake is made in `mistake`, on the line that says so. */
#include "../../c-tests/programs/test.h"

static mempool_t *pool;
static volatile unsigned sink;

/* A byte is read, written, decided upon, here and nowhere else, so that reports can be told by their stack. */
static __attribute__((noinline)) void mistake(volatile unsigned char *byte, int kind)
{
    switch (kind) {
    case 'r':
        sink += *byte; /* read */
        break;
    case 'w':
        *byte = 1; /* write */
        break;
    default:
        if (*byte == 7) /* decide */
            sink++;
    }
}

static unsigned char *get(size_t size)
{
    unsigned char *block = mempool_malloc(pool, size);
    CHECK(block != NULL);
    return block;
}

/* Made longer somewhere else. */
static unsigned char *move(unsigned char *block, size_t size)
{
    unsigned char *moved = mempool_realloc(pool, block, size);
    CHECK(moved != NULL && moved != block);
    return moved;
}

static void read_past(void)
{
    mistake(get(100) + 100, 'r');
}

static void write_past(void)
{
    mistake(get(100) + 100, 'w');
}

static void read_past_a_whole_granule(void)
{
    mistake(get(112) + 112, 'r'); /* a cached block comes next */
}

static void read_past_a_large_block(void)
{
    mistake(get(100000) + 100000, 'r');
}

static void read_past_a_grown_block(void)
{
    unsigned char *block = mempool_realloc(pool, get(100), 5000);
    CHECK(block != NULL);
    mistake(block + 5000, 'r');
}

static void read_past_a_cut_block(void)
{
    unsigned char *block = mempool_realloc(pool, get(5000), 100);
    CHECK(block != NULL);
    mistake(block + 100, 'r');
}

static void read_past_an_expanded_block(void)
{
    unsigned char *block = get(100000);
    OK(mempool_expand(pool, block, 100100));
    mistake(block + 100100, 'r');
}

/* Another process has made the pool: of its free memory nothing is known here. */
static void read_past_in_a_found_pool(void)
{
    size_t len = 1 * MIB;
    void *memory = map_shared(len);
    pid_t child = fork_process();
    if (child == 0) {
        new_pool(memory, len, NULL);
        _exit(0);
    }
    wait_ok(child);
    mempool_t *shared = attach(memory, len);
    unsigned char *block = mempool_malloc(shared, 100);
    CHECK(block != NULL);
    mistake(block + 100, 'r');
}

/* All that can be used of a block there is what was asked for: the rest is its guard. */
static void read_past_in_a_guarded_pool(void)
{
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    options.flags = MEMPOOL_GUARD;
    mempool_t *guarded = new_pool(map_shared(1 * MIB), 1 * MIB, &options);
    unsigned char *block = mempool_malloc(guarded, 100);
    CHECK(mempool_usable_size(guarded, block) == 100);
    mistake(block + 100, 'r');
}

static void read_past_an_aligned_block(void)
{
    unsigned char *block = mempool_aligned_alloc(pool, 256, 40);
    CHECK(block != NULL);
    mistake(block + 40, 'r');
}

static void read_what_was_never_allocated(void)
{
    mistake(get(100) + 500000, 'r');
}

static void read_freed(void)
{
    unsigned char *block = mempool_calloc(pool, 1, 100);
    OK(mempool_free(pool, block));
    mistake(block + 50, 'r');
}

static void write_freed(void)
{
    unsigned char *block = mempool_calloc(pool, 1, 100);
    OK(mempool_free(pool, block));
    mistake(block, 'w');
}

static void read_freed_large(void)
{
    unsigned char *block = mempool_calloc(pool, 1, 100000);
    OK(mempool_free(pool, block)); /* the first bytes are links now */
    mistake(block, 'r');
}

static void read_moved(void)
{
    unsigned char *block = get(100);
    get(100); /* lies behind it, so that it cannot grow */
    move(block, 50000);
    mistake(block + 50, 'r');
}

static void read_after_free_all(void)
{
    unsigned char *block = mempool_calloc(pool, 1, 100);
    OK(mempool_free_all(pool));
    mistake(block + 50, 'r');
}

static void read_freed_from_a_slot(void)
{
    uint64_t *slot = mempool_calloc(pool, 1, sizeof *slot);
    OK(mempool_calloc_to(pool, 1, 100, slot));
    unsigned char *block = mempool_pointer(pool, *slot);
    OK(mempool_free_from(pool, slot));
    mistake(block + 50, 'r');
}

/* What another process made may be used; when it is freed here, it may not. */
static void read_freed_of_another_process(void)
{
    size_t len = 1 * MIB;
    mempool_t *shared = new_pool(map_shared(len), len, NULL);
    uint64_t *slot = mempool_calloc(shared, 1, sizeof *slot);
    pid_t child = fork_process();
    if (child == 0)
        _exit(mempool_calloc_to(shared, 1, 100, slot) != MEMPOOL_OK);
    wait_ok(child);
    unsigned char *block = mempool_pointer(shared, *slot);
    CHECK(is_filled(block, 100, 0));
    OK(mempool_free(shared, block));
    mistake(block + 50, 'r');
}

static void decide_by_unwritten(void)
{
    mistake(get(100) + 50, 'd');
}

static void decide_by_unwritten_of_reused(void)
{
    unsigned char *block = mempool_calloc(pool, 1, 100);
    OK(mempool_free(pool, block));
    CHECK(get(100) == block);
    mistake(block + 50, 'd');
}

static void decide_by_unwritten_end(void)
{
    unsigned char *block = mempool_calloc(pool, 1, 100);
    get(100);
    mistake(move(block, 50000) + 40000, 'd');
}

static void decide_by_unwritten_that_moved(void)
{
    unsigned char *block = get(100);
    get(100);
    mistake(move(block, 50000) + 50, 'd');
}

static __attribute__((noinline)) void leak(void)
{
    memset(get(100), 1, 100);
    unsigned char *block = get(200), *behind = get(200);
    move(block, 50000); /* one block is lost, not two */
    OK(mempool_free(pool, behind));
}

static const struct {
    const char *name;
    void (*make)(void);
} bugs[] = {
#define BUG(name) {#name, name}
    BUG(read_past),
    BUG(write_past),
    BUG(read_past_a_whole_granule),
    BUG(read_past_a_large_block),
    BUG(read_past_a_grown_block),
    BUG(read_past_a_cut_block),
    BUG(read_past_an_expanded_block),
    BUG(read_past_in_a_found_pool),
    BUG(read_past_in_a_guarded_pool),
    BUG(read_past_an_aligned_block),
    BUG(read_what_was_never_allocated),
    BUG(read_freed),
    BUG(write_freed),
    BUG(read_freed_large),
    BUG(read_moved),
    BUG(read_after_free_all),
    BUG(read_freed_from_a_slot),
    BUG(read_freed_of_another_process),
    BUG(decide_by_unwritten),
    BUG(decide_by_unwritten_of_reused),
    BUG(decide_by_unwritten_end),
    BUG(decide_by_unwritten_that_moved),
    BUG(leak),
};

/* A buffer for each, so that reports do not mix up blocks of one with those of another. */
static unsigned char buffers[COUNT_OF(bugs)][1 << 20];

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        CHECK((size_t)i <= COUNT_OF(bugs));
        pool = new_pool(buffers[i - 1], sizeof buffers[0], NULL);
        bool known = false;
        for (size_t b = 0; b < COUNT_OF(bugs); b++) {
            if (strcmp(bugs[b].name, argv[i]) == 0) {
                fprintf(stderr, "== %s\n", argv[i]);
                bugs[b].make();
                fprintf(stderr, "== end\n");
                known = true;
            }
        }
        CHECK(known);
        CHECK(mempool_detach(pool) == MEMPOOL_OK);
    }
    /* What of the stack may still hold the address of a block. */
    volatile unsigned char stack[8192];
    for (size_t i = 0; i < sizeof stack; i++)
        stack[i] = 0;
    puts("unnoticed");
    return 0;
}
