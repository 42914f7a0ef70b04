/*
 * The demo: a post office in shared memory.
 *
 * A supervisor formats a pool in a memfd and starts worker processes. Each worker maps the memory at an address of its
 * own, attaches, and runs a few threads. Every thread sends messages of varied sizes to the threads of all other
 * workers: it allocates a block, fills it, and passes the block's *offset*. The receiver verifies every word and frees
 * the block, so each block is freed by another process than the one that allocated it.
 *
 *      worker 0                      the pool                       worker 1
 *      malloc, fill  ---- offset --> ring[from][to] ---- offset -->  verify, free
 *
 * Midway the supervisor kills one worker with SIGKILL, wherever it happens to be, and later starts another in its place.
 * The rest goes on meanwhile. Whatever the dead worker held is found by a walk over the pool and freed.
 *
 * Exit status: 0 if all was right, 1 if anything was wrong.
 * Build:       cc -std=c11 -O2 -pthread demo.c $(pkg-config --cflags --libs mempool) -o demo
 * Run:         ./demo [seconds]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <mempool.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    POOL_BYTES = 2 << 20,
    WORKERS = 4,
    THREADS = 2,                    /* of each worker */
    TALKERS = WORKERS * THREADS,
    VICTIM = 2,                     /* the worker that is killed */
    LIVES = WORKERS + 1,            /* every worker has one life, the victim a second: the last */
    SLOTS = 32,                     /* of each ring */
    BURST = 16,                     /* messages sent before a look at the inbox */
    COLUMNS = 64, ROWS = 16,        /* of the picture */
    TICK_MS = 100,
    PATIENCE_S = 20,                /* for what a busy machine has no time to do on time */
};

/* ---- What lies in the pool -------------------------------------------------------------------------------------- */

/* Offsets on their way from one thread to another. Both counters only grow; slot[n % SLOTS] is message n. There is one
 * writer of each, so a kill between any two instructions leaves a ring that the next life can take up as it is. */
struct ring {
    _Alignas(64) _Atomic uint64_t sent;     /* written by the sender, after the slot */
    _Alignas(64) _Atomic uint64_t taken;    /* written by the receiver, before it looks at the message */
    uint64_t slot[SLOTS];
};

/* What a thread has done. SENT counts before a message is in its ring, the others once it is verified. */
enum { SENT, RECEIVED, BYTES, BAD, COUNTS };
struct tally { _Alignas(64) _Atomic uint64_t count[COUNTS]; };

/* The block whose offset every worker is told. */
struct office {
    _Atomic bool closing;                   /* set by the supervisor: send no more */
    _Atomic uint32_t stopped;               /* threads that send no more */
    struct life {
        _Atomic uintptr_t address;          /* where this process has mapped the pool */
        pid_t pid;
        struct tally thread[THREADS];
    } life[LIVES];
    struct ring ring[TALKERS][TALKERS];     /* [from][to] */
};

struct message {
    uint64_t from, to, number, words;
    uint64_t word[];                        /* word[i] = stamp + i * STEP */
};
#define STEP UINT64_C(0x9E3779B97F4A7C15)

static mempool_t *pool;                     /* this process's handle, and where it sees the office */
static struct office *office;

static _Noreturn void die(const char *what, const char *why) {
    fprintf(stderr, "demo: %s: %s\n", what, why);
    exit(1);                                /* the workers die with their supervisor: see hire() */
}
#define TRY(call) ((call) == MEMPOOL_OK ? (void)0 : die(#call, mempool_last_message()))

static void *map(int fd, void *hint) {
    void *memory = mmap(hint, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        die("mmap", strerror(errno));
    return memory;
}

/* ---- A worker --------------------------------------------------------------------------------------------------- */

struct talker {
    unsigned self, worker;
    uint64_t dice;
    struct tally *tally;
};

static void count(struct talker *me, int what, uint64_t n) {
    atomic_fetch_add_explicit(&me->tally->count[what], n, memory_order_relaxed);
}

static uint64_t roll(struct talker *me) {   /* xorshift64 */
    me->dice ^= me->dice << 13;
    me->dice ^= me->dice >> 7;
    return me->dice ^= me->dice << 17;
}

static uint64_t stamp(uint64_t from, uint64_t to, uint64_t number) {
    return (number * TALKERS + from) * TALKERS + to + STEP;
}

/* One message to a thread of another worker; false if its ring, or the pool, is full. */
static bool send_one(struct talker *me) {
    unsigned to = (unsigned)((me->worker + 1 + roll(me) % (WORKERS - 1)) % WORKERS * THREADS + roll(me) % THREADS);
    struct ring *ring = &office->ring[me->self][to];
    uint64_t number = atomic_load_explicit(&ring->sent, memory_order_relaxed);
    if (number - atomic_load_explicit(&ring->taken, memory_order_acquire) == SLOTS)
        return false;

    size_t bytes = sizeof(struct message) + (roll(me) % (64u << roll(me) % 8)) / 8 * 8;    /* small ones more often */
    struct message *m = mempool_malloc(pool, bytes);
    if (!m && errno != ENOMEM)
        die("malloc", mempool_last_message());
    if (!m)
        return false;                       /* receive first, try again later */
    *m = (struct message){me->self, to, number, (bytes - sizeof *m) / 8};
    for (uint64_t i = 0, s = stamp(me->self, to, number); i < m->words; i++)
        m->word[i] = s + i * STEP;
    count(me, SENT, 1);
    ring->slot[number % SLOTS] = mempool_offset(pool, m);
    atomic_store_explicit(&ring->sent, number + 1, memory_order_release);
    return true;
}

/* The message is the one that is due, of a size its block can hold, and every word is as it was sent. */
static bool intact(const struct message *m, uint64_t from, uint64_t to, uint64_t number) {
    size_t room = mempool_usable_size(pool, m);             /* 0 unless m is a live block */
    if (room < sizeof *m || m->words > (room - sizeof *m) / 8)
        return false;
    uint64_t wrong = (m->from ^ from) | (m->to ^ to) | (m->number ^ number);
    for (uint64_t i = 0, s = stamp(from, to, number); i < m->words; i++)
        wrong |= m->word[i] ^ (s + i * STEP);
    return !wrong;
}

/* Takes all that has arrived; how many messages that was. */
static uint64_t receive_all(struct talker *me) {
    uint64_t total = 0;
    for (unsigned from = 0; from < TALKERS; from++) {
        struct ring *ring = &office->ring[from][me->self];
        uint64_t number = atomic_load_explicit(&ring->taken, memory_order_relaxed);
        uint64_t arrived = atomic_load_explicit(&ring->sent, memory_order_acquire);
        for (; number < arrived; number++, total++) {
            struct message *m = mempool_pointer(pool, ring->slot[number % SLOTS]);
            atomic_store_explicit(&ring->taken, number + 1, memory_order_release);
            bool good = intact(m, from, me->self, number);
            count(me, BYTES, good ? sizeof *m + m->words * 8 : 0);
            count(me, BAD, !good);
            count(me, RECEIVED, 1);
            TRY(mempool_free(pool, m));
        }
    }
    return total;
}

static void *talk(void *context) {
    struct talker *me = context;
    while (!atomic_load(&office->closing)) {
        uint64_t done = 0;
        for (int i = 0; i < BURST; i++)
            done += send_one(me);
        done += receive_all(me);
        if (!done)
            sched_yield();
    }
    atomic_fetch_add(&office->stopped, 1);
    for (bool last = false; !last; sched_yield()) {
        last = atomic_load(&office->stopped) == TALKERS;    /* read first: then this receive_all is complete */
        receive_all(me);
    }
    return NULL;
}

/* Arguments as hire() writes them: the memory's descriptor, the office's offset, which worker, which life. */
static int work(const char *arguments) {
    int fd;
    uint64_t office_offset;
    unsigned index, life;
    if (sscanf(arguments, "%d %" SCNu64 " %u %u", &fd, &office_offset, &index, &life) != 4)
        die("bad arguments", arguments);

    void *hint = (void *)((uintptr_t)(life + 1) << 40);     /* to each process its own address */
    void *memory = map(fd, hint);
    TRY(mempool_attach(memory, POOL_BYTES, NULL, &pool));
    office = mempool_pointer(pool, office_offset);
    atomic_store(&office->life[life].address, (uintptr_t)memory);

    pthread_t thread[THREADS];
    struct talker talker[THREADS];
    for (unsigned t = 0; t < THREADS; t++) {
        talker[t] = (struct talker){index * THREADS + t, index, (life * THREADS + t + 1) * STEP,
                                    &office->life[life].thread[t]};
        if (pthread_create(&thread[t], NULL, talk, &talker[t]))
            die("pthread_create", "no thread");
    }
    for (unsigned t = 0; t < THREADS; t++)
        pthread_join(thread[t], NULL);
    TRY(mempool_detach(pool));
    return munmap(memory, POOL_BYTES) != 0;
}

/* ---- The supervisor's eyes -------------------------------------------------------------------------------------- */

static bool tty, colour;
static const char *line = "";              /* what starts a line: on a terminal it wipes the progress line */
static unsigned faults;

static void expect(bool right, const char *what) {
    if (!right)
        faults++, printf("%sWRONG: %s\n", line, what);
}

static const char *check(void) {
    bool sound = mempool_check(pool) == MEMPOOL_OK;
    expect(sound, sound ? "" : mempool_last_message());
    return sound ? "OK" : "failed";
}

static mempool_stats_t look(void) {
    mempool_stats_t stats = MEMPOOL_STATS_INIT;
    TRY(mempool_stats(pool, &stats));
    return stats;
}

struct sum { uint64_t of[COUNTS]; };

static struct sum sum_of(unsigned first, unsigned end) {
    struct sum sum = {{0}};
    for (unsigned life = first; life < end; life++)
        for (unsigned i = 0; i < THREADS * COUNTS; i++)
            sum.of[i % COUNTS] += atomic_load(&office->life[life].thread[i / COUNTS].count[i % COUNTS]);
    return sum;
}

/* The picture: bytes of each cell in blocks that callers hold, and in the pool's own (header, map, caches). */
static const uint64_t cell = POOL_BYTES / (ROWS * COLUMNS);
static uint64_t held[ROWS * COLUMNS], own[ROWS * COLUMNS], first;

static void paint(uint64_t *cells, uint64_t offset, uint64_t size) {
    for (uint64_t end = offset + size, next; offset < end; offset = next) {
        next = (offset / cell + 1) * cell;
        next = next < end ? next : end;
        cells[offset / cell] += next - offset;
    }
}

static bool paint_block(const mempool_block_t *block, void *context) {
    (void)context;
    first = block->offset < first ? block->offset : first;
    if (block->state == MEMPOOL_BLOCK_LIVE)
        paint(held, block->offset, block->size);
    if (block->state == MEMPOOL_BLOCK_META)
        paint(own, block->offset, block->size);
    return true;
}

/* The pool's map, the stats, and the check's verdict. */
static void show(const char *title) {
    mempool_stats_t s = look();
    memset(held, 0, sizeof held), memset(own, 0, sizeof own);
    first = s.top;
    TRY(mempool_walk(pool, paint_block, NULL));
    paint(own, 0, first);                                   /* what lies before the first block */

    static const char *const shade[] = {"·", "░", "▒", "▓", "█", "=", " "};
    static const char *const paints[] = {"\033[2m", "\033[32m", "\033[32m", "\033[32m", "\033[32m", "\033[34m", ""};
    printf("\n%s: each cell is %" PRIu64 " bytes\n", title, cell);
    for (unsigned i = 0; i < ROWS * COLUMNS; i++) {
        unsigned kind = (unsigned)((held[i] * 4 + cell - 1) / cell);    /* quarters in use, rounded up */
        if (kind == 0)
            kind = own[i] * 2 > cell ? 5 : i * cell >= s.top ? 6 : 0;
        printf("%s%s%s%s%s", i % COLUMNS ? "" : "  |", colour ? paints[kind] : "", shade[kind],
               colour ? "\033[0m" : "", i % COLUMNS == COLUMNS - 1 ? "|\n" : "");
    }
    printf("  held: ░ to 1/4  ▒ to 1/2  ▓ to 3/4  █ more   · free   blank: above top   = the pool's own\n");

    printf("  stats: %" PRIu64 " bytes in %" PRIu64 " blocks held, %" PRIu64 " free in %" PRIu64 " blocks, top at %" PRIu64
           ", largest free %" PRIu64 ",\n", s.used_size, s.used_count, s.free_size, s.free_count, s.top, s.largest_free);
    printf("         overhead %" PRIu64 " of %" PRIu64 ", %" PRIu64 " failed allocations, %" PRIu64 " rejected frees, %"
           PRIu64 " recoveries\n", s.overhead, s.total, s.failed_allocs, s.rejected_frees, s.recoveries);
    printf("  check: %s\n", check());
    expect(s.rejected_frees == 0, "frees were rejected");
}

/* ---- The supervisor's hands ------------------------------------------------------------------------------------- */

static void hire(int fd, unsigned index, unsigned life) {
    char arguments[80];
    snprintf(arguments, sizeof arguments, "%d %" PRIu64 " %u %u", fd, mempool_offset(pool, office), index, life);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execl("/proc/self/exe", "demo", "worker", arguments, (char *)NULL);
        _exit(127);
    }
    if (pid < 0)
        die("fork", strerror(errno));
    office->life[life].pid = pid;
}

static void kill_worker(unsigned life) {
    int status = 0;
    pid_t pid = office->life[life].pid;
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
        die("victim", "it ended before it was killed");
    printf("%s  worker %u (pid %d) killed with SIGKILL\n", line, life, (int)pid);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint64_t received_by(unsigned from) {
    return sum_of(from, LIVES).of[RECEIVED];
}

static void print_progress(double start) {
    static struct sum before;
    static double before_at;
    struct sum sum = sum_of(0, LIVES);
    mempool_stats_t s = look();
    double at = now() - start, since = at - before_at;
    char bar[] = "..........";
    memset(bar, '#', s.used_size * (sizeof bar - 1) / s.total);
    printf("%s%5.1f s %9" PRIu64 " messages %8.0f/s %7.1f MB/s  [%s] %" PRIu64 " blocks%s", line, at, sum.of[RECEIVED],
           (double)(sum.of[RECEIVED] - before.of[RECEIVED]) / since,
           (double)(sum.of[BYTES] - before.of[BYTES]) / since / 1e6, bar, s.used_count, tty ? "" : "\n");
    fflush(stdout);
    before = sum, before_at = at;
}

/* Looks on until `until` seconds after `start`, checking the pool while all of them work, and until the lives from
 * `from` on have received more than `enough`: on a busy machine that may be later. Whether they have. */
static bool watch(double start, double until, unsigned from, uint64_t enough) {
    double begin = now(), end = start + until > begin ? start + until : begin;
    bool done = received_by(from) > enough;
    for (unsigned tick = 1; now() < end || (!done && now() < end + PATIENCE_S); tick++) {
        nanosleep(&(struct timespec){0, TICK_MS * 1000000L}, NULL);
        if (waitpid(-1, NULL, WNOHANG) > 0)
            die("worker", "one ended by itself");
        check();
        if (tty || tick % 5 == 0)
            print_progress(start);
        done = received_by(from) > enough;
    }
    return done;
}

static void print_table(void) {
    printf("\n  %-18s%8s  %14s %10s %10s %8s %5s\n", "process", "pid", "mapped at", "sent", "received", "MB", "bad");
    for (unsigned life = 0; life <= LIVES; life++) {
        bool all = life == LIVES;
        struct sum sum = all ? sum_of(0, LIVES) : sum_of(life, life + 1);
        if (all)
            printf("  %-42s", "all");
        else
            printf("  worker %u %-9s%8d  %#14" PRIxPTR, life == LIVES - 1 ? VICTIM : life,
                   life == VICTIM ? "killed" : life == LIVES - 1 ? "again" : "", (int)office->life[life].pid,
                   atomic_load(&office->life[life].address));
        printf(" %10" PRIu64 " %10" PRIu64 " %8.1f %5" PRIu64 "\n", sum.of[SENT], sum.of[RECEIVED],
               (double)sum.of[BYTES] / 1e6, sum.of[BAD]);
    }
}

static bool free_lost(const mempool_block_t *block, void *context) {
    if (block->state == MEMPOOL_BLOCK_LIVE && block->offset != mempool_offset(pool, office)) {
        TRY(mempool_free(pool, mempool_pointer(pool, block->offset)));
        ++*(uint64_t *)context;
    }
    return true;
}

static int supervise(double seconds) {
    tty = isatty(STDOUT_FILENO);
    colour = tty && !getenv("NO_COLOR");
    line = tty ? "\r\033[K" : "";
    alarm((unsigned)seconds + 4 * PATIENCE_S);  /* should anything hang, the demo fails and takes its workers along */

    int fd = memfd_create("mempool-demo", 0);
    if (fd < 0)
        die("memfd", strerror(errno));
    /* All of its memory now, or none: what ftruncate makes is holes, and a write to one that cannot be filled any more
     * is a SIGBUS in the middle of some call. */
    int error = posix_fallocate(fd, 0, POOL_BYTES);
    if (error != 0)
        die("memory for the pool", strerror(error));
    void *memory = map(fd, NULL);
    TRY(mempool_init(memory, POOL_BYTES, NULL, &pool));
    office = mempool_aligned_alloc(pool, 64, sizeof *office);
    if (!office)
        die("office", mempool_last_message());
    memset(office, 0, sizeof *office);

    printf("mempool %s: %d processes of %d threads exchange messages in a shared pool of %d bytes for %g seconds\n",
           mempool_version(), WORKERS, THREADS, POOL_BYTES, seconds);
    for (unsigned index = 0; index < WORKERS; index++)
        hire(fd, index, index);
    double start = now();
    expect(watch(start, seconds / 2, 0, 0), "no message arrived");

    kill_worker(VICTIM);
    uint64_t on_its_way = TALKERS * TALKERS * SLOTS;        /* at most */
    expect(watch(start, seconds * 5 / 8, 0, received_by(0) + on_its_way), "the others did not go on");
    hire(fd, VICTIM, LIVES - 1);
    printf("%s  worker %d replaced by pid %d\n", line, VICTIM, (int)office->life[LIVES - 1].pid);
    expect(watch(start, seconds, LIVES - 1, 0), "the replacement received nothing");

    double took = now() - start;
    printf("%s", tty ? "\n" : "");
    show("The pool at work");

    atomic_store(&office->closing, true);   /* the workers stop sending, empty their inboxes, and go */
    for (unsigned life = 0; life < LIVES; life++) {
        int status = 0;
        if (life != VICTIM)
            expect(waitpid(office->life[life].pid, &status, 0) > 0 && status == 0, "a worker failed");
    }
    print_table();

    struct sum sum = sum_of(0, LIVES);
    uint64_t lost = 0, messages_lost = sum.of[SENT] - sum.of[RECEIVED];
    TRY(mempool_recover(pool, NULL));
    TRY(mempool_walk(pool, free_lost, &lost));
    printf("\n  %.0f messages/s, %.1f MB/s, each block freed by another process than allocated it\n"
           "  the killed worker took %" PRIu64 " messages with it; %" PRIu64 " blocks of it found by walk and freed\n",
           (double)sum.of[RECEIVED] / took, (double)sum.of[BYTES] / took / 1e6, messages_lost, lost);
    expect(sum.of[BAD] == 0, "messages arrived damaged");
    /* A thread has one message in its hands at most. One not yet in its ring, or not yet verified, is lost. */
    expect(messages_lost <= lost && lost <= THREADS, "more was lost than the killed worker can have held");

    TRY(mempool_free(pool, office));
    TRY(mempool_trim(pool));
    show("The pool after all is freed");
    mempool_stats_t s = look();
    expect(s.used_count == 0 && s.largest_free >= s.total / 5 * 4, "the pool is not whole again");
    TRY(mempool_detach(pool));
    munmap(memory, POOL_BYTES);
    close(fd);
    puts(faults ? "\nSomething was WRONG: see above." : "\nAll was right: no message damaged, the pool whole again.");
    return faults != 0;
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "worker") == 0)
        return work(argv[2]);
    double seconds = argc > 1 ? atof(argv[1]) : 4;
    return supervise(seconds >= 1 ? seconds : 4);
}
