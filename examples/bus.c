/*
 * A message bus between processes: messages of any size are made in the pool, and only their offsets travel, through
 * lock-free rings whose entries are slots. Consumers are killed midway; whoever takes a dead one's place goes on where it
 * stopped. No message is lost, no block leaks; one that was being read may come a second time.
 *
 *   cc -std=c11 -O2 -pthread bus.c $(pkg-config --cflags --libs mempool) -o bus && ./bus
 *
 * Then the same bytes through the bus, a Unix socket and a pipe, in turns: `./bus speed`.
 *
 *                  tail: the next to be read           head: the next to be written
 *                     v                                   v
 *   messages |  0  | offset | offset | offset | offset |  0  |  0  | ...
 *                     \ freed and zeroed by its only      \ made and filled by its only publisher,
 *                       consumer, as one event              as one event; then head moves on
 */
#define _GNU_SOURCE
#include <mempool.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PUBLISHERS = 2, CONSUMERS = 2, RING = 64, POOL_BYTES = 64 << 20 };

struct message {
    uint64_t number, size;
    unsigned char bytes[];
};

/* One publisher, one consumer: each index has one writer. */
struct ring {
    _Alignas(64) _Atomic uint64_t head;
    _Alignas(64) _Atomic uint64_t tail;
    _Alignas(64) uint64_t messages[RING]; /* slots */
};

struct bus {
    struct ring rings[PUBLISHERS][CONSUMERS];
    _Atomic uint64_t expected[PUBLISHERS][CONSUMERS]; /* the next that each consumer has not read */
    _Atomic uint64_t twice;
};

static mempool_t *pool;
static struct bus *bus; /* here every process has it at the same address; else it would keep its offset */

static void need(bool is_right, const char *what) {
    if (!is_right)
        printf("%s: %s\n", what, mempool_last_message()), exit(1);
}

/* A message that can be filled; NULL while the ring is full, or the pool. It is in its slot from the first instant: what a
 * dead publisher was filling is given back by the next. */
static struct message *begin(struct ring *ring, size_t size) {
    uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    uint64_t *slot = &ring->messages[head % RING];
    if (head - atomic_load_explicit(&ring->tail, memory_order_acquire) == RING)
        return NULL;
    if (*slot != 0)
        need(mempool_free_from(pool, slot) == MEMPOOL_OK, "free_from");
    if (mempool_malloc_to(pool, sizeof(struct message) + size, slot) != MEMPOOL_OK)
        return NULL;
    struct message *message = mempool_pointer(pool, *slot);
    message->size = size;
    message->number = head;
    return message;
}

static void publish(struct ring *ring) {
    atomic_fetch_add_explicit(&ring->head, 1, memory_order_release);
}

/* The first message, or NULL; it stays in its slot until it is done with. */
static struct message *peek(struct ring *ring) {
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    if (tail == atomic_load_explicit(&ring->head, memory_order_acquire))
        return NULL;
    if (ring->messages[tail % RING] == 0) { /* its reader died between the two steps of `done` */
        atomic_store_explicit(&ring->tail, tail + 1, memory_order_release);
        return peek(ring);
    }
    return mempool_pointer(pool, ring->messages[tail % RING]);
}

static void done(struct ring *ring) {
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    need(mempool_free_from(pool, &ring->messages[tail % RING]) == MEMPOOL_OK, "free_from");
    atomic_store_explicit(&ring->tail, tail + 1, memory_order_release);
}

static void publisher(int me) {
    for (unsigned random = (unsigned)me;; random = random * 1664525u + 1013904223u) {
        struct ring *ring = &bus->rings[me][random >> 8 & (CONSUMERS - 1)];
        size_t size = (random >> 16) % 5000;
        struct message *message = begin(ring, size);
        if (message == NULL) {
            sched_yield();
            continue;
        }
        memset(message->bytes, (int)(message->number % 251), size);
        publish(ring);
    }
}

static void consumer(int me) {
    for (;; sched_yield())
        for (int from = 0; from < PUBLISHERS; from++)
            for (struct message *message; (message = peek(&bus->rings[from][me])) != NULL; done(&bus->rings[from][me])) {
                for (size_t i = 0; i < message->size; i++)
                    need(message->bytes[i] == message->number % 251, "a message changed on its way");
                if (message->number + 1 == bus->expected[from][me])
                    bus->twice++;
                else
                    need(message->number == bus->expected[from][me], "a message was lost");
                bus->expected[from][me] = message->number + 1;
            }
}

static pid_t start(void (*role)(int), int which) {
    pid_t child = fork();
    if (child == 0) {
        role(which);
        _exit(0);
    }
    return child;
}

static void end(pid_t child) {
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

/* Kills one process after another, and starts it again. */
static void survive(int kills) {
    pid_t publishers[PUBLISHERS], consumers[CONSUMERS];
    for (int i = 0; i < PUBLISHERS; i++)
        publishers[i] = start(publisher, i);
    for (int i = 0; i < CONSUMERS; i++)
        consumers[i] = start(consumer, i);
    for (int i = 0; i < kills; i++) {
        usleep(3000);
        pid_t *victim = i % 3 == 0 ? &publishers[i / 3 % PUBLISHERS] : &consumers[i % CONSUMERS];
        end(*victim);
        *victim = i % 3 == 0 ? start(publisher, i / 3 % PUBLISHERS) : start(consumer, i % CONSUMERS);
    }
    for (int i = 0; i < PUBLISHERS; i++)
        end(publishers[i]);
    for (int from = 0; from < PUBLISHERS; from++)
        for (int to = 0; to < CONSUMERS; to++)
            while (bus->rings[from][to].head != bus->rings[from][to].tail)
                usleep(1000);
    for (int i = 0; i < CONSUMERS; i++)
        end(consumers[i]);

    uint64_t published = 0, left = 0;
    for (int from = 0; from < PUBLISHERS; from++)
        for (int to = 0; to < CONSUMERS; to++) {
            published += bus->rings[from][to].head;
            need(bus->expected[from][to] == bus->rings[from][to].head, "a message was lost");
            for (int i = 0; i < RING; i++) /* what a dead publisher was filling */
                left += bus->rings[from][to].messages[i] != 0;
        }
    mempool_stats_t stats = MEMPOOL_STATS_INIT;
    need(mempool_stats(pool, &stats) == MEMPOOL_OK && mempool_check(pool) == MEMPOOL_OK, "the pool");
    printf("%d kills, %llu messages, %llu of them twice; %llu blocks besides the bus and %llu unfinished messages\n", kills,
           (unsigned long long)published, (unsigned long long)bus->twice,
           (unsigned long long)(stats.used_count - 1 - left), (unsigned long long)left);
    need(stats.used_count == 1 + left, "a block leaked");
}

/* ---- The same through other ways ---- */

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void all(ssize_t (*move)(int, void *, size_t), int fd, void *bytes, size_t size) {
    for (size_t have = 0; have < size;) {
        ssize_t moved = move(fd, (char *)bytes + have, size - have);
        need(moved > 0, "a pipe's end");
        have += (size_t)moved;
    }
}

static ssize_t put(int fd, void *bytes, size_t size) {
    return write(fd, bytes, size);
}

static uint64_t sum(const unsigned char *bytes, size_t size) {
    uint64_t sum = 0, word;
    for (size_t i = 0; i + 8 <= size; i += 8)
        memcpy(&word, bytes + i, 8), sum += word;
    return sum;
}

/* Seconds until `count` messages of `size` bytes, each filled and each summed up, have gone from one process to another:
 * through the bus if `ends` is NULL. */
static double transfer(const int *ends, size_t size, int count) {
    static unsigned char buffer[1 << 20];
    struct ring *ring = &bus->rings[0][0];
    double began = now();
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < count; i++) {
            unsigned char *bytes = buffer;
            struct message *message = NULL;
            if (ends == NULL) {
                while ((message = begin(ring, size)) == NULL)
                    sched_yield();
                bytes = message->bytes;
            }
            memset(bytes, i, size);
            if (ends == NULL)
                publish(ring);
            else
                all(put, ends[1], bytes, size);
        }
        _exit(0);
    }
    for (int i = 0; i < count; i++) {
        struct message *message = NULL;
        if (ends == NULL) {
            while ((message = peek(ring)) == NULL)
                sched_yield();
        } else {
            all(read, ends[0], buffer, size);
        }
        need(sum(message ? message->bytes : buffer, size) == size / 8 * (0x0101010101010101u * (unsigned char)i), "a sum");
        if (ends == NULL)
            done(ring);
    }
    waitpid(child, NULL, 0);
    return now() - began;
}

static void compare(void) {
    int pipe_ends[2], socket_ends[2];
    need(pipe(pipe_ends) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, socket_ends) == 0, "pipes");
    printf("%10s %12s %12s %12s   MB/s\n", "bytes", "bus", "socket", "pipe");
    for (size_t size = 64; size <= 1 << 20; size *= 8) {
        int count = (int)(size < 4096 ? 100000 : (400 << 20) / size);
        double best[3] = { 1e9, 1e9, 1e9 };
        for (int round = 0; round < 3; round++) {
            const int *ways[3] = { NULL, socket_ends, pipe_ends };
            for (int way = 0; way < 3; way++) {
                double took = transfer(ways[way], size, count);
                best[way] = took < best[way] ? took : best[way];
            }
        }
        double megabytes = (double)size * count / 1e6;
        printf("%10zu %12.0f %12.0f %12.0f\n", size, megabytes / best[0], megabytes / best[1], megabytes / best[2]);
    }
}

int main(int count, char **words) {
    bool is_race = count > 1 && strcmp(words[1], "speed") == 0;
    void *memory = mmap(NULL, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    need(memory != MAP_FAILED && mempool_init(memory, POOL_BYTES, NULL, &pool) == MEMPOOL_OK, "a pool");
    need((bus = mempool_aligned_alloc(pool, 64, sizeof *bus)) != NULL, "the bus");
    memset(bus, 0, sizeof *bus);
    survive(is_race ? 10 : 100);
    if (is_race)
        compare();
    return 0;
}
