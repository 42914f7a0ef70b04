/* What the C programs share, and the C++ ones: time, random numbers, stamped memory, processes, and what a pool must look like when no
 * call is in flight. A program is one translation unit, so everything is static inline. */
#ifndef MEMPOOL_TEST_H
#define MEMPOOL_TEST_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "check.h"

#ifdef __cplusplus
#include <atomic>
using std::atomic_load;
using std::atomic_uint;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wold-style-cast"
#pragma GCC diagnostic ignored "-Wzero-as-null-pointer-constant"
#else
#include <stdatomic.h>
#endif

#define KIB ((size_t)1024)
#define MIB (1024 * KIB)
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* ---- time ---- */

static inline uint64_t now_ns(void)
{
    struct timespec t;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &t) == 0);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* How long a program that repeats itself goes on: MEMPOOL_TEST_SECONDS, 1 unless set. */
static inline uint64_t run_ns(void)
{
    const char *seconds = getenv("MEMPOOL_TEST_SECONDS");
    double value = seconds ? strtod(seconds, NULL) : 1.0;
    CHECK(value > 0.0 && value < 1e6);
    return (uint64_t)(value * 1e9);
}

/* Spins politely until *word >= value; who should have made it so may have failed a check and be gone. */
static inline void wait_for(const atomic_uint *word, unsigned value)
{
    uint64_t begin_ns = now_ns();
    while (atomic_load(word) < value) {
        CHECK(now_ns() - begin_ns < 20000000000u);
        sched_yield();
    }
}

/* ---- random numbers: xorshift64*, one state per thread ---- */

/* MEMPOOL_TEST_SEED, 1 unless set, mixed so that each `stream` is its own sequence. Never 0. */
static inline uint64_t rng_seed(uint64_t stream)
{
    const char *text = getenv("MEMPOOL_TEST_SEED");
    uint64_t seed = text ? strtoull(text, NULL, 0) : 1;
    return (seed * 0x9E3779B97F4A7C15u ^ (stream + 1) * 0xD1B54A32D192ED03u) | 1;
}

static inline uint64_t rng_next(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545F4914F6CDD1Du;
}

/* 0 .. bound - 1 */
static inline unsigned rng_below(uint64_t *state, unsigned bound)
{
    return (unsigned)((rng_next(state) >> 32) * bound >> 32);
}

/* ---- stamped memory: every byte follows from a mark and its place ---- */

static inline unsigned char stamp_byte(unsigned mark, size_t i)
{
    return (unsigned char)(mark + (mark >> 8) * 7 + i * 31 + (i >> 8));
}

static inline void stamp(void *block, size_t size, unsigned mark)
{
    unsigned char *bytes = (unsigned char *)block;
    for (size_t i = 0; i < size; i++) {
        bytes[i] = stamp_byte(mark, i);
    }
}

static inline bool is_stamped(const void *block, size_t size, unsigned mark)
{
    const unsigned char *bytes = (const unsigned char *)block;
    unsigned wrong = 0;
    for (size_t i = 0; i < size; i++) {
        wrong |= (unsigned)(bytes[i] ^ stamp_byte(mark, i));
    }
    return wrong == 0;
}

static inline bool is_filled(const void *block, size_t size, unsigned char fill)
{
    const unsigned char *bytes = (const unsigned char *)block;
    unsigned wrong = 0;
    for (size_t i = 0; i < size; i++) {
        wrong |= (unsigned)(bytes[i] ^ fill);
    }
    return wrong == 0;
}

/* ---- processes ---- */

static inline void *map_shared(size_t len)
{
    void *memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

/* fork, with nothing left in stdio that a child could print again */
static inline pid_t fork_process(void)
{
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    return child;
}

static inline int wait_status(pid_t child)
{
    int status = 0;
    pid_t got;
    do {
        got = waitpid(child, &status, 0);
    } while (got < 0 && errno == EINTR);
    CHECK(got == child);
    return status;
}

static inline void wait_ok(pid_t child)
{
    int status = wait_status(child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static inline void wait_killed(pid_t child)
{
    int status = wait_status(child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* ---- refusals: the result, the status, errno and the message, all four ---- */

static inline void check_message(const char *file, int line, const char *call, mempool_status_t status,
                                 const char *words)
{
    const char *message = mempool_last_message();
    bool good = mempool_last_error() == status && message != NULL && strlen(message) >= 10 && !strchr(message, '\n') &&
                strstr(message, words) != NULL;
    if (!good) {
        fprintf(stderr, "%s:%d: wanted last error %d and a message with \"%s\", got %d\n", file, line, (int)status,
                words, (int)mempool_last_error());
        check_failed(file, line, call);
    }
}

static inline void check_refused(const char *file, int line, const char *call, mempool_status_t got,
                                 mempool_status_t status, const char *words)
{
    if (got != status) {
        fprintf(stderr, "%s:%d: wanted %d, got %d\n", file, line, (int)status, (int)got);
        check_failed(file, line, call);
    }
    check_message(file, line, call, status, words);
}

static inline void check_null(const char *file, int line, const char *call, const void *got, int error,
                              mempool_status_t status, const char *words)
{
    if (got != NULL || errno != error) {
        fprintf(stderr, "%s:%d: wanted NULL and errno %d, got %p and %d\n", file, line, error, got, errno);
        check_failed(file, line, call);
    }
    check_message(file, line, call, status, words);
}

/* `call` returns `status`, and its message holds `words` */
#define REFUSED(status, words, call) check_refused(__FILE__, __LINE__, #call, (call), (status), (words))
/* `call` returns NULL with this errno; its status and message as above */
#define REFUSED_NULL(error, status, words, call) \
    (errno = 0, check_null(__FILE__, __LINE__, #call, (call), (error), (status), (words)))
#define OK(call) CHECK((call) == MEMPOOL_OK)

/* ---- a pool in the quiet: no call in flight ---- */

static inline mempool_t *new_pool(void *buffer, size_t len, const mempool_options_t *options)
{
    mempool_t *pool = NULL;
    OK(mempool_init(buffer, len, options, &pool));
    CHECK(pool != NULL);
    return pool;
}

static inline mempool_t *attach(void *buffer, size_t len)
{
    mempool_t *pool = NULL;
    OK(mempool_attach(buffer, len, NULL, &pool));
    CHECK(pool != NULL);
    return pool;
}

static inline mempool_stats_t stats_of(mempool_t *pool)
{
    mempool_stats_t s = MEMPOOL_STATS_INIT;
    OK(mempool_stats(pool, &s));
    CHECK(s.struct_size == sizeof s);
    return s;
}

/* What a walk adds up to, by state. */
struct tally {
    uint64_t count[4], size[4];
    uint64_t end; /* of the last block seen */
};

static inline bool tally_visit(const mempool_block_t *block, void *context)
{
    struct tally *t = (struct tally *)context;
    CHECK(block->state <= MEMPOOL_BLOCK_META);
    CHECK(block->size > 0);
    CHECK(block->offset >= t->end); /* in address order, none overlaps another */
    t->end = block->offset + block->size;
    t->count[block->state]++;
    t->size[block->state] += block->size;
    return true;
}

/* The pool is sound, and its figures agree with each other and with what a walk finds. `start` as in its options. */
static inline mempool_stats_t check_quiet_from(mempool_t *pool, uint64_t start)
{
    OK(mempool_check(pool));
    mempool_stats_t s = stats_of(pool);
    uint64_t end = start + s.total;
    CHECK(s.top <= end);
    CHECK(s.total == s.overhead + s.used_size + s.free_size + s.cached_size + (end - s.top));
    CHECK(s.available == s.free_size + s.cached_size + (end - s.top));
    CHECK(s.largest_free <= s.available);

    struct tally t = {{0}, {0}, 0};
    OK(mempool_walk(pool, tally_visit, &t));
    CHECK(t.end <= end);
    CHECK(t.count[MEMPOOL_BLOCK_LIVE] == s.used_count && t.size[MEMPOOL_BLOCK_LIVE] == s.used_size);
    CHECK(t.count[MEMPOOL_BLOCK_FREE] == s.free_count && t.size[MEMPOOL_BLOCK_FREE] == s.free_size);
    CHECK(t.count[MEMPOOL_BLOCK_CACHED] == s.cached_count && t.size[MEMPOOL_BLOCK_CACHED] == s.cached_size);
    return s;
}

static inline mempool_stats_t check_quiet(mempool_t *pool)
{
    return check_quiet_from(pool, 0);
}

/* Nobody holds a block, and the pool is as whole as when it was fresh. */
static inline void check_whole_from(mempool_t *pool, const mempool_stats_t *fresh, uint64_t start)
{
    OK(mempool_trim(pool));
    OK(mempool_recover(pool, NULL));
    mempool_stats_t s = check_quiet_from(pool, start);
    CHECK(s.used_count == 0 && s.used_size == 0);
    CHECK(s.free_count == 0 && s.free_size == 0);
    CHECK(s.cached_count == 0 && s.cached_size == 0);
    CHECK(s.top == fresh->top);
    CHECK(s.largest_free == fresh->largest_free);
    CHECK(s.available == fresh->available);
    CHECK(s.overhead == fresh->overhead);
    CHECK(s.total == fresh->total && s.align == fresh->align && s.pool_id == fresh->pool_id);
}

static inline void check_whole(mempool_t *pool, const mempool_stats_t *fresh)
{
    check_whole_from(pool, fresh, 0);
}

/* Frees every live block that a walk finds, while it walks. Returns how many. */
struct sweep {
    mempool_t *pool;
    uint64_t freed;
};

static inline bool sweep_visit(const mempool_block_t *block, void *context)
{
    struct sweep *sweep = (struct sweep *)context;
    if (block->state == MEMPOOL_BLOCK_LIVE) {
        OK(mempool_free(sweep->pool, mempool_pointer(sweep->pool, block->offset)));
        sweep->freed++;
    }
    return true;
}

static inline uint64_t free_by_walk(mempool_t *pool)
{
    struct sweep sweep = {pool, 0};
    OK(mempool_walk(pool, sweep_visit, &sweep));
    return sweep.freed;
}

#ifdef __cplusplus
#pragma GCC diagnostic pop
#endif

#endif
