/* Checks that say where they failed; clean as C11 and as C++17. */
#ifndef MEMPOOL_TEST_CHECK_H
#define MEMPOOL_TEST_CHECK_H

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "mempool.h"

/* Ends this process at once: whoever waits for it sees the status, and the runner ends its process group. */
static inline void check_failed(const char *file, int line, const char *expression)
{
    int error = errno;
    fprintf(stderr, "%s:%d: process %d: failed: %s (errno: %s; last message: %s)\n", file, line, getpid(),
            expression, strerror(error), mempool_last_message());
    fflush(stderr);
    _exit(1);
}

#define CHECK(expression) ((expression) ? (void)0 : check_failed(__FILE__, __LINE__, #expression))

/* The last line of a program that did all it meant to; without it the runner counts exit code 0 as a failure. */
#define PASSED() ((void)puts("ok"), fflush(stdout) == 0 ? 0 : 1)

#endif
