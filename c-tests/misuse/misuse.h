/* What the programs of one mistake each share. A program makes its mistake inside MISTAKE or MISTAKE_NULL, which tell
 * what came of it: the status (and errno), and the words for who reads them. The runner compares that with the comment
 * at the program's head:
 *
 *   expect: MEMPOOL_ERR_NOT_ALLOCATED "mempool_free: no live block at offset {block}: ..."
 *
 * where {block} stands for the number that the program has told by that name, {block:x} for the same in hexadecimal. The
 * pool must be as sound as before, and hold what it held. */
#ifndef MEMPOOL_TEST_MISUSE_H
#define MEMPOOL_TEST_MISUSE_H

#include "../programs/test.h"

#define POOL_LEN (1 * MIB)

static _Alignas(4096) unsigned char buffer[POOL_LEN];

/* What must stay sound; none while it is NULL. */
static mempool_t *pool;

static inline mempool_options_t options_of(uint32_t flags)
{
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    options.flags = flags;
    return options;
}

static inline void begin(uint32_t flags)
{
    mempool_options_t options = options_of(flags);
    pool = new_pool(buffer, POOL_LEN, &options);
}

static inline unsigned char *get(size_t size)
{
    unsigned char *block = (unsigned char *)mempool_malloc(pool, size);
    CHECK(block != NULL);
    return block;
}

static inline void tell(const char *name, uint64_t value)
{
    printf("%s=%llu\n", name, (unsigned long long)value);
}

/* The name says what number it is in the message that is expected. */
#define TELL(name, value) tell(#name, (uint64_t)(value))
#define TELL_OFFSET(block) TELL(block, mempool_offset(pool, block))
#define TELL_ADDRESS(block) TELL(block, (uintptr_t)(block))

/* The addresses between which the pool's blocks lie: `first` and `end` in messages. */
static inline void tell_range(void)
{
    mempool_stats_t s = stats_of(pool);
    TELL(first, (uintptr_t)buffer + s.overhead);
    TELL(end, (uintptr_t)buffer + POOL_LEN);
}

static inline const char *status_name(mempool_status_t status)
{
    static const char *const names[] = {
        "MEMPOOL_OK",
        "MEMPOOL_ERR_INVALID_ARGUMENT",
        "MEMPOOL_ERR_BUFFER_TOO_SMALL",
        "MEMPOOL_ERR_BUFFER_TOO_LARGE",
        "MEMPOOL_ERR_NOT_A_POOL",
        "MEMPOOL_ERR_INCOMPATIBLE",
        "MEMPOOL_ERR_OUT_OF_MEMORY",
        "MEMPOOL_ERR_FOREIGN_POINTER",
        "MEMPOOL_ERR_NOT_ALLOCATED",
        "MEMPOOL_ERR_CORRUPTED",
        "MEMPOOL_ERR_NOT_FOUND",
        "MEMPOOL_ERR_EXISTS",
        "MEMPOOL_ERR_BUSY",
    };
    CHECK(status <= 0 && (size_t)-status < COUNT_OF(names));
    return names[-status];
}

/* What the pool holds. */
struct holding {
    uint64_t count, size;
};

static inline struct holding held(void)
{
    if (pool == NULL)
        return (struct holding){0, 0};
    mempool_stats_t s = stats_of(pool);
    return (struct holding){s.used_count, s.used_size};
}

static inline int came(mempool_status_t status, const char *error, struct holding before)
{
    CHECK(mempool_last_error() == status);
    printf("%s %s\"%s\"\n", status_name(status), error, mempool_last_message());
    struct holding after = held();
    CHECK(after.count == before.count && after.size == before.size);
    if (pool != NULL)
        OK(mempool_check(pool));
    return fflush(stdout) == 0 ? 0 : 1;
}

static inline int came_null(const void *got, struct holding before)
{
    int error = errno;
    CHECK(got == NULL);
    const char *name = error == ENOMEM ? "ENOMEM " : error == EINVAL ? "EINVAL " : error == EIO ? "EIO " : "another errno ";
    return came(mempool_last_error(), name, before);
}

static struct holding before_mistake;

/* A call that gives a status; one that gives a pointer. */
#define MISTAKE(call) (before_mistake = held(), came((call), "", before_mistake))
#define MISTAKE_NULL(call) (before_mistake = held(), errno = 0, came_null((call), before_mistake))

#endif
