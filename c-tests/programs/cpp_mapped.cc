// mapped_pool: shared memory objects and files that many processes come to first, and that their makers do not
// live to finish. The system calls by which a pool is made are this program's own, which count, kill and fail.
#include "mempool.hpp"

#include "test.h"

#include <string>
#include <vector>

#include <sys/syscall.h>

namespace {

using mempool::mapped_pool;
using mempool::place;

constexpr std::size_t size = 1 << 20;

// ---- The system calls ----

unsigned steps;                 // taken so far
unsigned die_at = ~0u;          // the step at which this process dies
bool disk_is_full;
void (*before_locking)();       // done once, when a lock is asked for

void step() {
    if (steps++ == die_at) {
        kill(getpid(), SIGKILL);
    }
}

template <class... Arguments> long call(long number, Arguments... arguments) {
    step();
    long result = syscall(number, arguments...);
    step();
    return result;
}

} // namespace

extern "C" {
int flock(int file, int operation) noexcept {
    if (before_locking != nullptr && operation == LOCK_EX) {
        std::exchange(before_locking, nullptr)();
    }
    return static_cast<int>(call(SYS_flock, file, operation));
}
int ftruncate(int file, off_t len) noexcept { return static_cast<int>(call(SYS_ftruncate, file, len)); }
int fallocate(int file, int mode, off_t at, off_t len) {
    // Of a full disk some is there before it is full.
    long result = call(SYS_fallocate, file, mode, at, disk_is_full ? len / 2 : len);
    return disk_is_full ? errno = ENOSPC, -1 : static_cast<int>(result);
}
void *mmap(void *wanted, std::size_t len, int access, int flags, int file, off_t at) noexcept {
    return reinterpret_cast<void *>(call(SYS_mmap, wanted, len, access, flags, file, at));
}
}

namespace {

// ---- Places ----

std::string name_of_test() { return "mempool-cpp-" + std::to_string(getpid()); }

struct scratch {
    explicit scratch(const place &p) : where(p) {}
    ~scratch() { mapped_pool::remove(where); }
    place where;
};

int file_of(const place &where) {
    int file = where.open(O_RDWR | O_CREAT, 0600);
    CHECK(file >= 0);
    return file;
}

void write_file(const place &where, const std::string &bytes, std::size_t at, std::size_t len) {
    int file = file_of(where);
    CHECK(ftruncate(file, static_cast<off_t>(len)) == 0);
    CHECK(pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(at)) == static_cast<ssize_t>(bytes.size()));
    CHECK(close(file) == 0);
}

struct stat stat_of(const place &where) {
    int file = where.open(O_RDWR, 0);
    struct stat now {};
    CHECK(file >= 0 && fstat(file, &now) == 0 && close(file) == 0);
    return now;
}

std::string read_file(const place &where) {
    std::string bytes(static_cast<std::size_t>(stat_of(where).st_size), '\0');
    int file = where.open(O_RDWR, 0);
    CHECK(pread(file, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()) && close(file) == 0);
    return bytes;
}

bool is_there(const place &where) {
    int file = where.open(O_RDWR, 0);
    return file >= 0 && close(file) == 0;
}

std::error_code code_of_open(const place &where, std::size_t start = 0) {
    std::error_code code;
    CHECK(!mapped_pool::open(where, start, code) == static_cast<bool>(code));
    return code;
}

std::error_code code_of_create(const place &where, std::size_t len = size) {
    std::error_code code;
    mapped_pool made = mapped_pool::create(where, len, {}, 0600, code);
    CHECK(!made == static_cast<bool>(code) && made.created() == !code);
    return code;
}

// A pool like any other, with memory behind all of it, and nobody's lock on it.
void check_made(const mapped_pool &mapped, const place &where, bool created, std::size_t len = size) {
    CHECK(mapped.created() == created && mapped.size() == len && mapped->size() == len);
    mapped->check();
    CHECK(static_cast<std::size_t>(stat_of(where).st_blocks) * 512 >= len);
    int file = where.open(O_RDWR, 0);
    CHECK(flock(file, LOCK_EX | LOCK_NB) == 0 && close(file) == 0);
    std::error_code code;
    void *block = mapped->allocate(len / 2, 8, code);
    CHECK(block != nullptr);
    memset(block, 1, len / 2);
    mapped->deallocate(block);
}

// ---- One at a time ----

void test_ways(const place &where) {
    scratch ended(where);
    CHECK(code_of_open(where) == std::errc::no_such_file_or_directory);
    {
        mapped_pool mapped = mapped_pool::create(where, size);
        check_made(mapped, where, true);
        CHECK((stat_of(where).st_mode & 0777) == 0600);
        CHECK(code_of_create(where) == mempool::errc::exists);
        mapped_pool again = mapped_pool::open_or_create(where, 2 * size); // its size is what it is
        check_made(again, where, false);
        CHECK(again.data() != mapped.data() && again->stats().pool_id == mapped->stats().pool_id);

        // The same vector, twice in this process.
        using vector = std::vector<int, mempool::allocator<int>>;
        vector *v = mapped->make<vector>(*mapped);
        vector *twin = again->pointer<vector>(mapped->offset(v));
        for (int i = 0; i < 1000; i++) {
            (i % 2 == 0 ? v : twin)->push_back(i);
        }
        CHECK(*v == *twin && v->data() != twin->data() && v->size() == 1000);
        again->destroy(twin);
        CHECK(mapped->stats().used_count == 0);

        mapped_pool moved = std::move(mapped);
        CHECK(!mapped && moved);
        moved = std::move(again);
        CHECK(!again && moved->stats().used_count == 0);
    }
    mapped_pool left = mapped_pool::open(where); // a pool outlives its processes' mappings
    CHECK(mapped_pool::remove(where) && !mapped_pool::remove(where));
    mapped_pool fresh = mapped_pool::create(where, size);
    CHECK(fresh->stats().pool_id != left->stats().pool_id);
    left->check();
}

void test_options(const place &where) {
    scratch ended(where);
    mempool::options options;
    options.start = 10000;
    options.align = 64;
    mapped_pool mapped = mapped_pool::open_or_create(where, size, options);
    CHECK(mapped.created() && mapped->align() == 64 && mapped->size() == size - 10000);
    mapped_pool there = mapped_pool::open(where, 10000);
    CHECK(there->stats().pool_id == mapped->stats().pool_id);
    CHECK(code_of_open(where) == mempool::errc::not_a_pool); // at its first byte there is none
}

// What a maker may leave when it dies is taken over; what others made is not touched.
void test_leftovers(const place &where) {
    const std::string formatting = "formats\x9c"; // the first word that init writes
    for (std::size_t len : {std::size_t{0}, std::size_t{1000}, size, 3 * size}) {
        for (bool exclusive : {false, true}) {
            scratch ended(where);
            write_file(where, "", 0, len);
            CHECK(code_of_open(where) == mempool::errc::not_a_pool);
            mapped_pool mapped = exclusive ? mapped_pool::create(where, size) : mapped_pool::open_or_create(where, size);
            check_made(mapped, where, true);
        }
    }
    for (bool exclusive : {false, true}) {
        scratch ended(where);
        write_file(where, formatting, 0, 2 * size);
        int file = file_of(where);
        CHECK(fallocate(file, 0, 0, 2 * size) == 0 && close(file) == 0);
        CHECK(code_of_open(where) == mempool::errc::not_a_pool);
        mapped_pool mapped = exclusive ? mapped_pool::create(where, size) : mapped_pool::open_or_create(where, size);
        check_made(mapped, where, true, 2 * size);
    }
    for (std::size_t at : {std::size_t{0}, std::size_t{300}, 2 * size - 7}) {
        scratch ended(where);
        write_file(where, "letters", at, 2 * size);
        std::string before = read_file(where);
        std::error_code code;
        CHECK(!mapped_pool::open_or_create(where, size, {}, 0600, code) && code == mempool::errc::not_a_pool);
        CHECK(code_of_create(where) == mempool::errc::exists && code_of_open(where) == mempool::errc::not_a_pool);
        CHECK(read_file(where) == before);
    }
}

void test_refusals(const place &where) {
    std::error_code code;
    {
        scratch ended(where);
        CHECK(code_of_create(where, 10) == mempool::errc::buffer_too_small && !is_there(where));
        CHECK(code_of_create(where, 0) && !is_there(where));
        disk_is_full = true;
        CHECK(code_of_create(where) == std::errc::no_space_on_device && !is_there(where));
        write_file(where, "", 0, 0);
        CHECK(!mapped_pool::open_or_create(where, size, {}, 0600, code) && code == std::errc::no_space_on_device);
        disk_is_full = false;
        CHECK(is_there(where)); // it was there before
        check_made(mapped_pool::open_or_create(where, size), where, true);
    }
    place nowhere = place::file("/nowhere/at/all");
    CHECK(!mapped_pool::open_or_create(nowhere, size, {}, 0600, code) && code == std::errc::no_such_file_or_directory);
    try {
        mapped_pool::open(nowhere);
        CHECK(!"it is not there");
    } catch (const std::system_error &error) {
        CHECK(strstr(error.what(), "/nowhere/at/all") != nullptr);
    }
    std::string link = "/tmp/" + name_of_test() + "-link", target = link + "-target";
    CHECK(symlink(target.c_str(), link.c_str()) == 0);
    scratch first(place::file(link)), second(place::file(target));
    check_made(mapped_pool::open_or_create(first.where, size), second.where, true); // a link to nothing yet
}

// A copy of a pool, in which runs of zeros have become holes, gets memory again before it is mapped.
void test_copy(const place &where) {
    scratch ended(where), of_copy(place::file("/dev/shm/" + name_of_test() + "-copy"));
    { mapped_pool mapped = mapped_pool::create(where, size); }
    std::string bytes = read_file(where);
    write_file(of_copy.where, bytes.substr(0, 4096), 0, size);
    CHECK(bytes == read_file(of_copy.where)); // nothing but zeros was left out
    check_made(mapped_pool::open(of_copy.where), of_copy.where, false);
}

// The file that was opened is removed before it is locked, and perhaps another made in its place: that one counts.
void test_removed_meanwhile(const place &where) {
    static place there = where;
    static std::uint64_t pool_id;
    there = where;
    scratch ended(where);
    before_locking = [] { CHECK(mapped_pool::remove(there)); };
    mapped_pool mapped = mapped_pool::open_or_create(where, size);
    check_made(mapped, where, true);
    CHECK(mapped_pool::open(where)->stats().pool_id == mapped->stats().pool_id);

    CHECK(mapped_pool::remove(where));
    before_locking = [] {
        CHECK(mapped_pool::remove(there));
        pool_id = mapped_pool::create(there, size)->stats().pool_id;
    };
    mapped = mapped_pool::open_or_create(where, size);
    CHECK(!mapped.created() && mapped->stats().pool_id == pool_id);

    CHECK(mapped_pool::remove(where));
    write_file(where, "", 0, 0);
    before_locking = [] { CHECK(mapped_pool::remove(there)); };
    CHECK(code_of_open(where) == std::errc::no_such_file_or_directory);
    CHECK(before_locking == nullptr);
}

// Somebody else made the pool between open and lock: for create it is there.
void test_overtaken(const place &where) {
    static place there = where;
    there = where;
    scratch ended(where);
    before_locking = [] { mapped_pool::open_or_create(there, size); };
    CHECK(code_of_create(where) == mempool::errc::exists);
    check_made(mapped_pool::open(where), where, false);
}

// ---- Deaths: at each step of the way ----

void test_deaths(const place &where) {
    unsigned unfinished = 0, finished = 0;
    for (unsigned at = 0;; at++) {
        scratch ended(where);
        pid_t child = fork_process();
        if (child == 0) {
            steps = 0;
            die_at = at;
            {
                mapped_pool mapped = mapped_pool::open_or_create(where, size);
                CHECK(mapped.created());
            }
            die_at = ~0u;
            _exit(0);
        }
        int status = wait_status(child);
        if (WIFEXITED(status)) {
            CHECK(WEXITSTATUS(status) == 0);
            break;
        }
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        std::error_code code = code_of_open(where);
        unfinished += code == mempool::errc::not_a_pool;
        finished += !code;
        CHECK(!code || code == mempool::errc::not_a_pool);
        if (at % 2 == 0) { // the next comer is pleased, whichever way it asks
            check_made(mapped_pool::open_or_create(where, size), where, static_cast<bool>(code));
        } else {
            CHECK(code_of_create(where) == (code ? std::error_code() : make_error_code(mempool::errc::exists)));
        }
    }
    CHECK(unfinished >= 6 && finished >= 1);
    printf("%u deaths before the pool was finished, %u after\n", unfinished, finished);
}

// ---- Races, with deaths and without ----

struct board {
    atomic_uint ready, begin, created, opened;
    std::atomic<std::uint64_t> pool_ids[8];
};

void race(board &all, const place &where, unsigned number) {
    all.ready++;
    wait_for(&all.begin, 1);
    mapped_pool mapped = mapped_pool::open_or_create(where, size);
    all.created += mapped.created();
    all.pool_ids[number] = mapped->stats().pool_id;
    auto *block = mapped->make<std::uint64_t>(number);
    CHECK(*block == number);
    all.opened++;
}

void test_races(const place &where) {
    constexpr unsigned racers = 4;
    auto *all = new (map_shared(sizeof(board))) board;
    std::uint64_t random = rng_seed(1), deadline_ns = now_ns() + run_ns() / 2;
    unsigned rounds = 0, killed = 0, taken_over = 0;
    for (; now_ns() < deadline_ns || rounds < 20; rounds++) {
        scratch ended(where);
        new (all) board{};
        pid_t children[racers];
        bool somebody_dies = rounds % 4 != 0;
        for (unsigned i = 0; i < racers; i++) {
            children[i] = fork_process();
            if (children[i] == 0) {
                steps = 0;
                // One or two of them, mostly inside the making; more steps than there are is not to die.
                die_at = somebody_dies && i < 2 ? rng_below(&random, 12) + 4 * i : ~0u;
                race(*all, where, i);
                _exit(0);
            }
            (void)rng_next(&random);
        }
        wait_for(&all->ready, racers);
        all->begin = 1;
        unsigned dead = 0;
        for (pid_t child : children) {
            int status = wait_status(child);
            CHECK(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL && somebody_dies : WEXITSTATUS(status) == 0);
            dead += WIFSIGNALED(status);
        }
        CHECK(all->opened + dead >= racers && all->created <= 1 && (dead > 0 || all->created == 1));
        mapped_pool mapped = mapped_pool::open(where);
        mapped->check();
        for (const auto &id : all->pool_ids) {
            CHECK(id == 0 || id == mapped->stats().pool_id); // all ended up in one
        }
        CHECK(mapped->stats().used_count >= all->opened);
        killed += dead;
        taken_over += dead > 0 && all->created == 1;
    }
    CHECK(killed > 0);
    printf("%u races, %u killed, %u won by a survivor\n", rounds, killed, taken_over);
}

// Who comes while others remove gets a sound pool, and never hangs.
void test_removals(const place &where) {
    scratch ended(where);
    std::uint64_t deadline_ns = now_ns() + run_ns() / 4;
    pid_t children[3];
    for (unsigned i = 0; i < 3; i++) {
        children[i] = fork_process();
        if (children[i] == 0) {
            unsigned rounds = 0;
            for (; now_ns() < deadline_ns || rounds < 10; rounds++) {
                mapped_pool mapped = mapped_pool::open_or_create(where, 65536);
                mapped->deallocate(mapped->allocate(100));
                mapped->check();
                mapped_pool::remove(where);
            }
            _exit(0);
        }
    }
    for (pid_t child : children) {
        wait_ok(child);
    }
}

} // namespace

int main() {
    const place shm = place::shm(name_of_test()), file = place::file("/tmp/" + name_of_test());
    for (const place &where : {shm, file}) {
        test_ways(where);
        test_options(where);
        test_leftovers(where);
        test_refusals(where);
        test_removed_meanwhile(where);
        test_overtaken(where);
    }
    test_copy(shm);
    test_deaths(shm);
    test_deaths(file);
    test_races(shm);
    test_removals(shm);
    return PASSED();
}
