/* malloc and its kin as the manual pages and glibc have them; run with and without a pool behind them. */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(what) ((what) ? (void)0 : (printf("line %d: %s\n", __LINE__, #what), exit(1)))

static int is_aligned(const void *block, size_t alignment)
{
    return block != NULL && (uintptr_t)block % alignment == 0;
}

static void sizes(void)
{
    void *volatile nothing = malloc(0), *volatile other = malloc(0);
    CHECK(nothing != NULL && other != NULL && nothing != other);
    free(nothing);
    free(other);
    free(NULL);
    CHECK(malloc_usable_size(NULL) == 0);
    for (size_t size = 1; size < 3000; size += 7) {
        char *block = malloc(size);
        CHECK(is_aligned(block, 16) && malloc_usable_size(block) >= size);
        memset(block, 0xee, malloc_usable_size(block));
        free(block);
        block = calloc(size, 1);
        for (size_t i = 0; i < size; i++)
            CHECK(block[i] == 0);
        free(block);
    }
    void *zero = calloc(0, 8);
    CHECK(zero != NULL);
    free(zero);
}

static void failures(void)
{
    volatile size_t huge = SIZE_MAX;
    errno = 0;
    CHECK(malloc(huge) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(calloc(huge, 2) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(reallocarray(NULL, huge, 2) == NULL && errno == ENOMEM);
    char *block = malloc(10);
    strcpy(block, "untouched");
    errno = 0;
    CHECK(realloc(block, huge - 100) == NULL && errno == ENOMEM && strcmp(block, "untouched") == 0);
    errno = 77;
    free(block);
    CHECK(errno == 77);
    void *out = (void *)1;
    errno = 77;
    CHECK(posix_memalign(&out, 3, 10) == EINVAL && posix_memalign(&out, 4, 10) == EINVAL && out == (void *)1);
    CHECK(posix_memalign(&out, 64, huge - 4096) == ENOMEM && errno == 77);
}

static void alignments(void)
{
    for (size_t alignment = sizeof(void *); alignment <= 1 << 20; alignment *= 2) {
        void *out, *blocks[] = { memalign(alignment, 100), aligned_alloc(alignment, alignment), NULL };
        CHECK(posix_memalign(&out, alignment, 100) == 0);
        blocks[2] = out;
        for (int i = 0; i < 3; i++) {
            CHECK(is_aligned(blocks[i], alignment));
            memset(blocks[i], 1, 100);
            free(blocks[i]);
        }
    }
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *a = valloc(1), *b = pvalloc(1);
    CHECK(is_aligned(a, page) && is_aligned(b, page) && malloc_usable_size(b) >= page);
    free(a);
    free(b);
}

static void moves(void)
{
    unsigned char *block = realloc(NULL, 1);
    size_t size = 1;
    block[0] = 0;
    while (size < 5000000) {
        size_t longer = size + size / 3 + 1;
        block = realloc(block, longer);
        CHECK(block != NULL);
        for (size_t i = size; i < longer; i++)
            block[i] = (unsigned char)(i * 7);
        size = longer;
    }
    while (size > 10) {
        size /= 3;
        block = realloc(block, size);
        for (size_t i = 0; i < size; i++)
            CHECK(block[i] == (unsigned char)(i * 7));
    }
    CHECK(realloc(block, 0) == NULL);
}

static void *churn(void *context)
{
    unsigned random = (unsigned)(uintptr_t)context;
    char *blocks[100] = { 0 };
    for (int i = 0; i < 20000; i++) {
        random = random * 1664525u + 1013904223u;
        unsigned which = random >> 8 & 63, size = 1 + (random >> 16) % 4000;
        free(blocks[which]);
        blocks[which] = malloc(size);
        memset(blocks[which], (int)which, size);
    }
    for (int i = 0; i < 100; i++)
        free(blocks[i]);
    return strdup("an end");
}

static void threads(void)
{
    pthread_t ids[8];
    for (uintptr_t i = 0; i < 8; i++)
        CHECK(pthread_create(&ids[i], NULL, churn, (void *)(i + 1)) == 0);
    for (int i = 0; i < 8; i++) {
        void *end;
        CHECK(pthread_join(ids[i], &end) == 0 && strcmp(end, "an end") == 0);
        free(end);
    }
}

/* A child's heap is a copy: nothing that it does is seen by its parent, in shared memory either. */
static void forks(void)
{
    pthread_t busy;
    for (int round = 0; round < 10; round++) {
        char *text = strdup("the parent's");
        CHECK(pthread_create(&busy, NULL, churn, (void *)77) == 0);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            CHECK(strcmp(text, "the parent's") == 0);
            strcpy(text, "the child's!");
            free(text);
            for (int i = 0; i < 1000; i++)
                memset(malloc(12), 'x', 12);
            pid_t grandchild = fork();
            if (grandchild == 0)
                _exit(churn((void *)3) == NULL);
            int status;
            CHECK(waitpid(grandchild, &status, 0) == grandchild && status == 0);
            _exit(0);
        }
        int status;
        for (int i = 0; i < 1000; i++)
            free(malloc(12));
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        CHECK(strcmp(text, "the parent's") == 0);
        void *end;
        CHECK(pthread_join(busy, &end) == 0);
        free(end);
        free(text);
    }
}

int main(void)
{
    sizes();
    failures();
    alignments();
    moves();
    threads();
    forks();
    puts("ok");
    return 0;
}
