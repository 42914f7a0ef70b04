/* Holds 1000 blocks of 1000 bytes until its input ends. */
#include <stdio.h>
#include <stdlib.h>

int main(void)
{
    static void *volatile blocks[1000];
    for (int i = 0; i < 1000; i++)
        blocks[i] = malloc(1000);
    puts("ready");
    fflush(stdout);
    getchar();
    return 0;
}
