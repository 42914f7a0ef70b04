/* A call made by a child, one instruction at a time, until it is killed for real. */
#ifndef MEMPOOL_TEST_STEPPED_H
#define MEMPOOL_TEST_STEPPED_H

#include "test.h"

#include <sys/ptrace.h>

/* Runs a call on the pool in a buffer, and kills who makes it when it has changed the buffer so many times. Returns false
 * if it was done before: then it is killed afterwards. `prepare`: what is done before, of which the steps are not looked
 * at. `*pid`: who it was; may be NULL. */
static inline bool step_until(const unsigned char *buffer, size_t len, void (*prepare)(void), void (*call)(void),
                              unsigned changes, pid_t *pid)
{
    static unsigned char *copy;
    static atomic_bool *is_done;
    if (copy == NULL) {
        copy = (unsigned char *)map_shared(MIB);
        is_done = (atomic_bool *)map_shared(sizeof *is_done);
    }
    CHECK(len <= MIB);
    atomic_store(is_done, false);
    pid_t child = fork_process();
    if (child == 0) {
        prepare();
        CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0);
        raise(SIGSTOP);
        call();
        atomic_store(is_done, true);
        for (;;) {
            raise(SIGSTOP);
        }
    }
    if (pid != NULL) {
        *pid = child;
    }
    int status = wait_status(child);
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    memcpy(copy, buffer, len);
    unsigned seen = 0;
    while (seen < changes && !atomic_load(is_done)) {
        CHECK(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) == 0);
        status = wait_status(child);
        CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
        if (memcmp(copy, buffer, len) != 0) {
            memcpy(copy, buffer, len);
            seen++;
        }
    }
    bool was_done = atomic_load(is_done);
    CHECK(kill(child, SIGKILL) == 0);
    wait_killed(child);
    return !was_done;
}

#endif
