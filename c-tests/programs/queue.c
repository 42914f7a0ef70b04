/* The queue of examples/queue.c: its own main, and then its functions under heavier fire. All workers are killed, one
 * after the other, or kill themselves before or after a store that matters; after each round what lives is the queue,
 * what it holds and what is in hands, and in the end every message was seen once. */
#define _GNU_SOURCE
#include <stdint.h>

static void dying_store(uint64_t *slot, uint64_t value);

#define main run_example
#define __atomic_store_n(slot, value, order) dying_store(slot, value)
#include "../../examples/queue.c"
#undef main
#undef __atomic_store_n

#include "test.h"

static uint64_t dying; /* the random numbers that say when; 0: not at all */

static void perhaps_die(void)
{
    if (dying != 0 && rng_below(&dying, 2000) == 0) {
        raise(SIGKILL);
    }
}

static void dying_store(uint64_t *slot, uint64_t value)
{
    perhaps_die();
    __atomic_store_n(slot, value, __ATOMIC_RELEASE);
    perhaps_die();
}

enum { ROUNDS_AT_LEAST = 80, LEDGER = 1 << 22 };

/* For each message who took it: 1 + the place, or 0. */
struct ledger {
    _Atomic(unsigned char) taker[PRODUCERS][LEDGER];
    _Atomic(uint64_t) seen[WORKERS];
};

static struct ledger *ledger;

static void see(unsigned place, const struct message *message, bool is_inherited)
{
    CHECK(message->from < PRODUCERS && message->number < LEDGER);
    unsigned char mine = (unsigned char)(place + 1);
    unsigned char before = atomic_exchange(&ledger->taker[message->from][message->number], mine);
    /* Twice only in one hand: whoever had it marked it, and died before it was done with it. */
    CHECK(before == 0 || (is_inherited && before == mine));
    atomic_fetch_add(&ledger->seen[place], 1);
}

static void consume(unsigned place, struct worker *me)
{
    bool is_inherited = true;
    for (const struct message *m = at(me->taken);; m = pop(me)) {
        if (m != NULL) {
            see(place, m, is_inherited);
            OK(mempool_free_from(pool, &me->taken));
        }
        is_inherited = false;
    }
}

static void produce(struct worker *me)
{
    while (me->sent < LEDGER) {
        push(me); /* or there is no memory, since all that is sent is still there */
    }
}

static pid_t work(unsigned place, uint64_t stream)
{
    pid_t child = fork_process();
    if (child == 0) {
        dying = rng_seed(stream);
        struct worker *me = join(place);
        if (place < PRODUCERS) {
            produce(me);
        } else {
            consume(place, me);
        }
        _exit(0);
    }
    return child;
}

/* Nobody works. Returns how many messages wait. */
static uint64_t judge(void)
{
    join(0);
    uint64_t next[PRODUCERS] = {0}, waiting = 0, held = 1;
    for (uint64_t offset = queue->head, last = 0; offset != 0; last = offset, offset = at(offset)->next) {
        CHECK(at(offset)->from < PRODUCERS);
        uint64_t *number = &next[at(offset)->from];
        CHECK(*number == 0 || *number == at(offset)->number); /* in order, none missing */
        CHECK(atomic_load(&ledger->taker[at(offset)->from][at(offset)->number]) == 0);
        *number = at(offset)->number + 1;
        waiting++;
        CHECK(last == 0 || at(last)->next == offset);
        CHECK(at(offset)->next != 0 || queue->tail == offset);
    }
    for (unsigned w = 0; w < WORKERS; w++) {
        held += queue->workers[w].made != 0;
        held += queue->workers[w].taken != 0;
        CHECK(w >= PRODUCERS || next[w] == 0 || next[w] == queue->workers[w].sent);
    }
    mempool_stats_t s = check_quiet(pool);
    CHECK(s.used_count == held + waiting);
    CHECK(s.rejected_frees == 0);
    return waiting;
}

static void test_rounds(void)
{
    make_queue(map_shared(POOL_BYTES));
    ledger = map_shared(sizeof *ledger);
    uint64_t random = rng_seed(0), deadline_ns = now_ns() + run_ns(), rounds = 0, waited = 0;
    while (rounds < ROUNDS_AT_LEAST || now_ns() < deadline_ns) {
        pid_t children[WORKERS];
        for (unsigned w = 0; w < WORKERS; w++) {
            children[w] = work(w, rounds * WORKERS + w);
        }
        for (unsigned w = 0; w < WORKERS; w++) {
            struct timespec pause = {.tv_nsec = (long)rng_below(&random, 1000000)};
            nanosleep(&pause, NULL);
            unsigned place = (unsigned)((w + rounds) % WORKERS);
            CHECK(kill(children[place], SIGKILL) == 0);
            int status = wait_status(children[place]);
            CHECK(WIFSIGNALED(status) || WEXITSTATUS(status) == 0); /* a producer that has filled the ledger */
        }
        waited += judge();
        rounds++;
    }
    for (unsigned place = PRODUCERS; place < WORKERS; place++) { /* what is left */
        struct worker *me = join(place);
        bool is_inherited = true;
        for (const struct message *m = me->taken ? at(me->taken) : pop(me); m != NULL; m = pop(me)) {
            see(place, m, is_inherited);
            OK(mempool_free_from(pool, &me->taken));
            is_inherited = false;
        }
    }
    uint64_t sent = 0;
    for (unsigned p = 0; p < PRODUCERS; p++) {
        sent += queue->workers[p].sent;
        for (uint64_t i = 0; i < LEDGER; i++) {
            CHECK((atomic_load(&ledger->taker[p][i]) != 0) == (i < queue->workers[p].sent));
        }
        OK(mempool_free_from(pool, &queue->workers[p].made));
    }
    CHECK(check_quiet(pool).used_count == 1);
    printf("%llu kills, %llu messages, of which %llu waited: none lost, none doubled, no block left\n",
           (unsigned long long)rounds * WORKERS, (unsigned long long)sent, (unsigned long long)waited);
    CHECK(sent > 1000);
    OK(mempool_detach(pool));
}

int main(void)
{
    CHECK(run_example() == 0);
    test_rounds();
    return PASSED();
}
