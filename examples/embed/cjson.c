/*
 * cJSON with its trees in a pool of 256 KiB. What does not fit is refused as a whole, and the next text is read.
 *
 *   cc -std=c11 -O2 -pthread cjson.c $(pkg-config --cflags --libs mempool libcjson) -o cjson && ./cjson
 */
#include <cjson/cJSON.h>
#include <mempool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned char memory[256 << 10];
static mempool_t *pool;

static void *get(size_t size) {
    return mempool_malloc(pool, size);
}

static void give(void *block) {
    mempool_free(pool, block);
}

/* Reads an array of so many numbers, and says how many it found. */
static void read_numbers(int count) {
    char *text = calloc((size_t)count, 8), *end = text;
    for (int i = 0; i < count; i++)
        end += sprintf(end, "%c%d", i == 0 ? '[' : ',', i % 100000);
    strcpy(end, "]");
    cJSON *tree = cJSON_Parse(text);
    if (tree == NULL)
        printf("%d numbers: no memory\n", count);
    else
        printf("%d numbers: %d read\n", count, cJSON_GetArraySize(tree));
    cJSON_Delete(tree);
    free(text);
}

int main(void) {
    if (mempool_init(memory, sizeof memory, NULL, &pool) != MEMPOOL_OK)
        return puts(mempool_last_message()), 1;
    cJSON_InitHooks(&(cJSON_Hooks){ get, give });
    read_numbers(1000);
    read_numbers(100000);
    read_numbers(2000);

    mempool_stats_t stats = MEMPOOL_STATS_INIT;
    mempool_stats(pool, &stats);
    printf("%d blocks left, %d bad frees, %s\n", (int)stats.used_count, (int)stats.rejected_frees,
           mempool_check(pool) == MEMPOOL_OK ? "sound" : mempool_last_message());
    return mempool_detach(pool);
}
