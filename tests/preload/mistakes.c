/* Gives back what it does not have, and says that it went on. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char no_block[64];

int main(int count, char **words)
{
    const char *what = count > 1 ? words[1] : "";
    char *volatile block = malloc(100);
    if (strcmp(what, "twice") == 0) {
        free(block);
        free(block);
    } else if (strcmp(what, "inside") == 0) {
        free(block + 16);
    } else if (strcmp(what, "foreign") == 0) {
        char *volatile foreign = no_block;
        free(foreign);
    } else if (strcmp(what, "realloc") == 0) {
        free(block);
        if (realloc(block, 200) != NULL)
            puts("moved");
    }
    puts("went on");
    return 0;
}
