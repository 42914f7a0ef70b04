/* Closes every descriptor, as daemons do, and takes all numbers for a file of its own (the argument). Prints how many of
 * them somebody else has closed in a forked child and here. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { OUT = 1, MINE = 900 };

static int missing(void) {
    int missing = 0;
    for (int i = 0; i < MINE; i++)
        missing += i != OUT && fcntl(i, F_GETFD) < 0;
    return missing;
}

int main(int argc, char **argv) {
    struct rlimit limit = {2 * MINE, 2 * MINE};
    if (argc != 2 || setrlimit(RLIMIT_NOFILE, &limit))
        return 1;
    for (int i = 0; i < 2 * MINE; i++)
        if (i != OUT)
            close(i);
    while (open(argv[1], O_RDWR | O_CREAT | O_APPEND, 0600) < MINE - 1)
        ;
    pid_t child = fork();
    if (child == 0)
        exit(missing());
    int status = -1;
    waitpid(child, &status, 0);
    printf("%d %d\n", status, missing());
    return 0;
}
