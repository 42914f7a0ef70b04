/*
 * A queue that survives the death of any of its users at any instruction: no message is lost, none comes twice, and no
 * block leaks. Four processes use it here, which are killed all the time.
 *
 *   cc -std=c11 -pthread queue.c $(pkg-config --cflags --libs mempool) -o queue && ./queue
 *
 * The pattern, for any structure in a pool:
 *
 * 1. At every instant each block is named by a slot. It comes by mempool_malloc_to and goes by mempool_free_from, to and
 *    from slots that only one process writes: here the hands of each worker, `made` for what it will push and `taken`
 *    for what it has popped.
 * 2. A block goes from slot to slot under a robust lock: the new slot is written first, then the old one. Who dies in
 *    between leaves it named twice, which the next owner of the lock sees and ends: what is in the queue is in no hand.
 *    So a push that got that far is done, and a pop is undone.
 * 3. Who takes over from the dead, its lock or its place, calls mempool_recover before it looks at the slots: that ends
 *    what was begun in the pool.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <mempool.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS = 4, PRODUCERS = 2, MESSAGES = 50000, POOL_BYTES = 1 << 20 };

struct message {
    uint64_t next;                  /* a slot: the message behind it in the queue */
    uint64_t from, number;
};

struct worker {
    uint64_t made, taken;           /* slots: its hands */
    uint64_t sent;                  /* the number of its next message */
};

struct queue {
    pthread_mutex_t lock;           /* robust: it tells its next owner that the last one died */
    uint64_t head;                  /* a slot: the first message */
    uint64_t tail;                  /* the last one; no slot, but found again from the head */
    struct worker workers[WORKERS];
};

static mempool_t *pool;
static struct queue *queue;         /* here every process has it at the same address; else keep its offset */

static struct message *at(uint64_t offset) {
    return mempool_pointer(pool, offset);
}

/* A store that the compiler leaves in its place: the order of stores is all that a death respects. */
static void set(uint64_t *slot, uint64_t offset) {
    __atomic_store_n(slot, offset, __ATOMIC_RELEASE);
}

static void pushed(struct worker *me) {
    set(&me->sent, at(me->made)->number + 1);
    set(&me->made, 0);
}

static void repair(void) {
    mempool_recover(pool, NULL);
    uint64_t last = 0;
    for (uint64_t offset = queue->head; offset != 0; last = offset, offset = at(offset)->next)
        for (struct worker *w = queue->workers; w < queue->workers + WORKERS; w++) {
            if (w->made == offset)
                pushed(w);
            if (w->taken == offset)
                set(&w->taken, 0);
        }
    queue->tail = last;
}

static void lock(void) {
    if (pthread_mutex_lock(&queue->lock) == EOWNERDEAD) {
        repair();                   /* may be repeated from any point: who repairs may die, too */
        pthread_mutex_consistent(&queue->lock);
    }
}

static void unlock(void) {
    pthread_mutex_unlock(&queue->lock);
}

/* Takes a worker's place, perhaps a dead one's: what that has left in its hands is this one's then. */
static struct worker *join(unsigned place) {
    mempool_recover(pool, NULL);
    lock();
    unlock();
    return &queue->workers[place];
}

/* False if there is no memory. */
static bool push(struct worker *me) {
    if (me->made == 0 && mempool_malloc_to(pool, sizeof(struct message), &me->made) != MEMPOOL_OK)
        return false;
    *at(me->made) = (struct message){0, (uint64_t)(me - queue->workers), me->sent};
    lock();
    set(queue->tail ? &at(queue->tail)->next : &queue->head, me->made);
    queue->tail = me->made;
    pushed(me);
    unlock();
    return true;
}

/* The first message, which stays in the worker's hand until it is done with it; NULL if there is none. */
static const struct message *pop(struct worker *me) {
    lock();
    if (queue->head != 0) {
        set(&me->taken, queue->head);
        set(&queue->head, at(queue->head)->next);
        if (queue->head == 0)
            queue->tail = 0;
    }
    unlock();
    return at(me->taken);
}

static void done(struct worker *me) {
    mempool_free_from(pool, &me->taken);
}

static void make_queue(void *memory) {
    pthread_mutexattr_t robust;
    pthread_mutexattr_init(&robust);
    pthread_mutexattr_setpshared(&robust, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST);
    if (mempool_init(memory, POOL_BYTES, NULL, &pool) != MEMPOOL_OK ||
        (queue = mempool_calloc(pool, 1, sizeof *queue)) == NULL || pthread_mutex_init(&queue->lock, &robust) != 0)
        puts(mempool_last_message()), exit(1);
}

/* Where a message leaves its mark. Who died with one in its hand may have marked it already: so marking is something
 * that can be done again. */
static unsigned char (*marks)[MESSAGES];

static pid_t start(unsigned place) {
    pid_t child = fork();
    if (child != 0)
        return child;
    struct worker *me = join(place);
    if (place < PRODUCERS)
        while (me->sent < MESSAGES)
            push(me) ? 0 : usleep(100);
    else
        for (const struct message *m = at(me->taken);; m = pop(me))
            if (m != NULL)
                marks[m->from][m->number] = 1, done(me);
            else if (queue->workers[0].sent == MESSAGES && queue->workers[1].sent == MESSAGES && queue->head == 0)
                break;
    _exit(0);
}

int main(void) {
    void *memory = mmap(NULL, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    marks = mmap(NULL, PRODUCERS * MESSAGES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || marks == MAP_FAILED)
        return perror("mmap"), 1;
    make_queue(memory);

    pid_t children[WORKERS];
    for (unsigned place = 0; place < WORKERS; place++)
        children[place] = start(place);
    unsigned kills = 0, left = WORKERS;
    for (unsigned place = 0; left > 0; place = (unsigned)rand() % WORKERS) {
        usleep(500);
        if (children[place] == 0)
            continue;
        kill(children[place], SIGKILL);
        int status;
        waitpid(children[place], &status, 0);
        if (WIFSIGNALED(status))
            kills++, children[place] = start(place);
        else
            left--, children[place] = 0;
    }

    unsigned lost = 0;
    for (unsigned i = 0; i < PRODUCERS * MESSAGES; i++)
        lost += marks[i / MESSAGES][i % MESSAGES] == 0;
    mempool_stats_t stats = MEMPOOL_STATS_INIT;
    mempool_recover(pool, NULL);
    mempool_stats(pool, &stats);
    printf("%u kills: of %d messages %u were lost; %d block is left, the queue\n", kills, PRODUCERS * MESSAGES, lost,
           (int)stats.used_count);
    return lost != 0 || stats.used_count != 1 || mempool_check(pool) != MEMPOOL_OK;
}
