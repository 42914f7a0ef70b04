// Containers that lie in the pool, and named objects, used by processes that have mapped it at different addresses.
#include "mempool.hpp"

#include "test.h"

#include <boost/container/list.hpp>
#include <boost/container/map.hpp>
#include <boost/container/scoped_allocator.hpp>
#include <boost/container/string.hpp>
#include <boost/container/vector.hpp>

#include <array>
#include <map>
#include <string>
#include <vector>

namespace {

namespace bc = boost::container;
using mempool::mapped_pool;
using mempool::place;

constexpr std::size_t size = 8 << 20;
constexpr unsigned processes = 3;

template <class T> using std_vector = std::vector<T, mempool::allocator<T>>;
template <class T> using vector = bc::vector<T, mempool::allocator<T>>;
template <class T> using list = bc::list<T, mempool::allocator<T>>;
using string = bc::basic_string<char, std::char_traits<char>, mempool::allocator<char>>;
// Hands its allocator on to the strings in it.
using shelf = bc::map<string, string, std::less<string>,
                      bc::scoped_allocator_adaptor<mempool::allocator<std::pair<const string, string>>>>;

// Maps the pool anew in a fork's child, at another address: the mapping that it inherits stays in its place, but
// whoever follows a pointer into it is ended.
mapped_pool elsewhere(const place &where, const mapped_pool &inherited) {
    CHECK(mprotect(inherited.data(), inherited.size(), PROT_NONE) == 0);
    mapped_pool mapped = mapped_pool::open(where);
    CHECK(mapped.data() != inherited.data());
    return mapped;
}

template <class Body> void in_processes(Body body) {
    pid_t children[processes];
    for (unsigned i = 0; i < processes; i++) {
        children[i] = fork_process();
        if (children[i] == 0) {
            body(i);
            _exit(0);
        }
    }
    for (pid_t child : children) {
        wait_ok(child);
    }
}

// ---- Containers ----

struct world {
    explicit world(const mempool::pool &pool)
        : numbers(pool), deep(pool), order(pool), shelf(mempool::allocator<char>(pool)), last_words(pool) {}

    std::atomic<unsigned> lock{0}, rounds{0};
    std_vector<std::uint64_t> numbers;
    vector<vector<unsigned>> deep;
    list<unsigned> order;
    ::shelf shelf;
    string last_words;
};

class locked {
  public:
    explicit locked(world &w) : world_(w) {
        std::uint64_t begin_ns = now_ns();
        while (world_.lock.exchange(1) != 0) {
            CHECK(now_ns() - begin_ns < 20000000000u);
            sched_yield();
        }
    }
    ~locked() { world_.lock = 0; }

  private:
    world &world_;
};

// One step of process `me`, which keeps books of its own about what is its on the shared shelf.
void shelve(world &w, std::map<std::string, std::string> &books, unsigned me, std::uint64_t &random) {
    std::string key = std::to_string(me) + ":" + std::to_string(rng_below(&random, 200));
    std::string text(rng_below(&random, 100), static_cast<char>('a' + rng_below(&random, 26)));
    mempool::allocator<char> here = w.last_words.get_allocator();
    string shared_key(key.c_str(), here);
    switch (rng_below(&random, 4)) {
    case 0: {
        CHECK(w.shelf.erase(shared_key) == books.erase(key));
        break;
    }
    case 1: {
        auto found = w.shelf.find(shared_key);
        auto mine = books.find(key);
        CHECK((found == w.shelf.end()) == (mine == books.end()));
        CHECK(mine == books.end() || mine->second == found->second.c_str());
        break;
    }
    case 2: {
        w.shelf[shared_key].append(text.c_str());
        books[key].append(text);
        break;
    }
    default: {
        w.shelf[shared_key].assign(text.c_str());
        books[key] = text;
    }
    }
}

void work(const place &where, const mapped_pool &inherited, unsigned me) {
    mapped_pool mapped = elsewhere(where, inherited);
    world &w = *mapped->find<world>("world");
    std::map<std::string, std::string> books;
    std::uint64_t random = rng_seed(me), deadline_ns = now_ns() + run_ns() / 2;
    // A row of so many numbers and those that it grew out of fit into the pool, whoever is fastest.
    constexpr unsigned most = 100000;
    for (unsigned round = 0; round < 500 || (now_ns() < deadline_ns && round < most); round++) {
        locked guard(w);
        shelve(w, books, me, random);
        w.numbers.push_back(w.numbers.size());
        w.order.push_back(me);
        w.deep[me].push_back(round);
        w.last_words.assign(100 + me, static_cast<char>('0' + me));
        if (w.numbers.size() > 5000) {
            w.numbers.resize(10);
            w.numbers.shrink_to_fit();
            w.order.clear();
        }
        w.rounds++;
    }
    locked guard(w);
    for (const auto &[key, text] : books) {
        CHECK(w.shelf.at(string(key.c_str(), w.last_words.get_allocator())) == text.c_str());
    }
    std::string mine = std::to_string(me) + ":";
    std::size_t count = 0;
    for (const auto &entry : w.shelf) {
        CHECK(mapped->contains(&entry) && mapped->contains(entry.second.get_allocator().begin()));
        count += entry.first.compare(0, 2, mine.c_str()) == 0;
    }
    CHECK(count == books.size());
}

void test_containers(const place &where) {
    mapped_pool mapped = mapped_pool::create(where, size);
    mempool_stats_t fresh = check_quiet(mapped->handle());
    world &w = *mapped->construct<world>("world", *mapped);
    w.deep.resize(processes, vector<unsigned>(*mapped));
    in_processes([&](unsigned me) { work(where, mapped, me); });

    // Here all lies at yet another address.
    for (std::size_t i = 0; i < w.numbers.size(); i++) {
        CHECK(w.numbers[i] == i);
    }
    unsigned rounds = 0;
    for (const vector<unsigned> &row : w.deep) {
        for (unsigned i = 0; i < row.size(); i++) {
            CHECK(row[i] == i);
        }
        rounds += static_cast<unsigned>(row.size());
    }
    CHECK(rounds == w.rounds && rounds >= 500 * processes);
    CHECK(w.last_words.size() >= 100 && w.last_words[0] == w.last_words[99]);
    std::size_t texts = w.shelf.size();
    mapped->check();
    CHECK(mapped->destroy<world>("world") && !mapped->destroy<world>("world"));
    check_whole(mapped->handle(), &fresh);
    CHECK(mapped->stats().rejected_frees == 0);
    printf("%u rounds, %zu texts left\n", rounds, texts);
    mapped_pool::remove(where);
}

// A process that has mapped the bytes without attaching the pool can read; it can't allocate, and is told so.
void test_not_attached(const place &where) {
    mapped_pool mapped = mapped_pool::create(where, size);
    auto *numbers = mapped->construct<std_vector<int>>("numbers", *mapped);
    numbers->assign(10, 7);
    std::uint64_t offset = mapped->offset(numbers);
    pid_t child = fork_process();
    if (child == 0) {
        numbers->push_back(8); // by the inherited handle
        int file = where.open(O_RDWR, 0);
        void *bytes = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        CHECK(file >= 0 && bytes != MAP_FAILED);
        auto *there = reinterpret_cast<std_vector<int> *>(static_cast<char *>(bytes) + offset);
        CHECK(there->size() == 11 && there->front() == 7 && there->back() == 8);
        try {
            there->resize(10000);
            CHECK(!"it has no handle");
        } catch (const mempool::bad_alloc &error) {
            CHECK(error.code() == mempool::errc::not_a_pool);
        }
        mempool::pool pool = mempool::pool::attach(bytes, size);
        there->resize(10000);
        _exit(0);
    }
    wait_ok(child);
    CHECK(numbers->size() == 10000 && (*numbers)[9] == 7 && (*numbers)[10] == 8);
    mapped->destroy<std_vector<int>>("numbers");
    CHECK(mapped->stats().used_count == 0);
    mapped_pool::remove(where);
}

// ---- Names ----

struct board {
    std::atomic<unsigned> ready, begin, born, dead, returned;
    std::atomic<std::uint64_t> offsets[processes];
};
board *shared_board;

// Counts its kind in all processes; may fail to be made.
struct citizen {
    enum fate : unsigned { lives, throws, is_killed };
    explicit citizen(unsigned how = lives) {
        if (how == throws) {
            throw how;
        }
        if (how == is_killed) {
            kill(getpid(), SIGKILL);
        }
        shared_board->born++;
    }
    citizen(const citizen &) = delete;
    ~citizen() {
        CHECK(alive == 0xA11FE); // nobody has destroyed it before
        alive = 0;
        shared_board->dead++;
    }
    std::uint64_t alive = 0xA11FE;
    char body[100] = {};
};

void test_names() {
    static unsigned char buffer[65536];
    mempool::pool pool = mempool::pool::init(buffer, sizeof buffer);
    mempool_stats_t fresh = check_quiet(pool.handle());
    std::error_code code;
    CHECK(pool.find<citizen>("a") == nullptr && pool.root<citizen>() == nullptr);
    citizen *a = pool.construct<citizen>("a");
    CHECK(pool.find<citizen>("a") == a && pool.find_or_construct<citizen>("a") == a && shared_board->born == 1);
    CHECK(pool.try_construct<citizen>(code, "a") == nullptr && code == mempool::errc::exists && shared_board->born == 1);
    using large = std::array<char, 4096>;
    CHECK(pool.try_construct<large>(code, "a") == nullptr && code == mempool::errc::exists);
    CHECK(pool.find<world>("a", code) == nullptr && code == mempool::errc::incompatible);
    struct alignas(4096) page {
        char byte;
    };
    CHECK(pool.find<page>("a", code) == nullptr && code == mempool::errc::incompatible);
    CHECK(pool.find<citizen>("", code) == nullptr && code == mempool::errc::invalid_argument);
    try {
        pool.find_or_construct<citizen>("b", citizen::throws);
        CHECK(!"it throws");
    } catch (unsigned) {
    }
    try {
        pool.construct<citizen>("a");
        CHECK(!"it is there");
    } catch (const mempool::error &error) {
        CHECK(error.code() == mempool::errc::exists);
    }
    CHECK(pool.find<citizen>("b") == nullptr && pool.stats().used_count == 1);
    pool.set_root(a);
    CHECK(pool.root<citizen>() == a);
    pool.set_root<citizen>(nullptr);
    CHECK(pool.root<citizen>() == nullptr);
    CHECK(pool.destroy<citizen>("a") && !pool.destroy<citizen>("a") && shared_board->dead == 1);
    check_whole(pool.handle(), &fresh);
}

// Many make one name at once; some throw, some are killed in the constructor. Those who live have one object.
void test_race_of_names(const place &where) {
    unsigned killed = 0, thrown = 0, shared = 0;
    std::uint64_t random = rng_seed(99), deadline_ns = now_ns() + run_ns() / 4;
    for (unsigned round = 0; round < 20 || now_ns() < deadline_ns; round++) {
        new (shared_board) board{};
        mapped_pool mapped = mapped_pool::create(where, size);
        pid_t children[processes];
        unsigned expected_deaths = 0;
        for (unsigned i = 0; i < processes; i++) {
            unsigned fate = round % 2 == 0 ? citizen::lives : rng_below(&random, 3);
            children[i] = fork_process();
            if (children[i] == 0) {
                mapped_pool mine = elsewhere(where, mapped);
                shared_board->ready++;
                wait_for(&shared_board->begin, 1);
                try {
                    citizen *one = mine->find_or_construct<citizen>("one", fate);
                    shared_board->offsets[i] = mine->offset(one);
                    shared_board->returned++;
                } catch (unsigned) {
                    shared_board->offsets[i] = 1;
                }
                _exit(0);
            }
        }
        wait_for(&shared_board->ready, processes);
        shared_board->begin = 1;
        for (pid_t child : children) {
            int status = wait_status(child);
            CHECK(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0);
            expected_deaths += WIFSIGNALED(status);
        }
        citizen *one = mapped->find<citizen>("one");
        CHECK((one != nullptr) == (shared_board->returned > 0));
        for (const auto &offset : shared_board->offsets) {
            CHECK(offset <= 1 || offset == mapped->offset(one));
            thrown += offset == 1;
        }
        // Of those made at the same time one is left; each who died in the constructor leaves its block, no more.
        CHECK(shared_board->born - shared_board->dead == (one != nullptr));
        CHECK(mapped->stats().used_count == (one != nullptr) + expected_deaths);
        mapped->check();
        killed += expected_deaths;
        shared += shared_board->born > 1;
        CHECK(mapped->destroy<citizen>("one") == (one != nullptr));
        mapped_pool::remove(where);
    }
    CHECK(killed > 0 && thrown > 0);
    printf("names: %u killed in the constructor, %u thrown out, %u times several were made\n", killed, thrown, shared);
}

// One name comes and goes in many processes: each object is destroyed once, none is lost.
void test_coming_and_going(const place &where) {
    new (shared_board) board{};
    mapped_pool mapped = mapped_pool::create(where, size);
    std::uint64_t deadline_ns = now_ns() + run_ns() / 4;
    in_processes([&](unsigned me) {
        mapped_pool mine = elsewhere(where, mapped);
        std::uint64_t random = rng_seed(me);
        for (unsigned i = 0; i < 2000 || now_ns() < deadline_ns; i++) {
            const char *name = rng_below(&random, 4) == 0 ? "other" : "one";
            switch (rng_below(&random, 3)) {
            case 0: (void)mine->find_or_construct<citizen>(name); break;
            case 1: (void)mine->destroy<citizen>(name); break;
            default: {
                std::error_code code;
                (void)mine->try_construct<citizen>(code, name);
                CHECK(!code || code == mempool::errc::exists);
            }
            }
        }
    });
    unsigned left = mapped->find<citizen>("one") != nullptr;
    left += mapped->find<citizen>("other") != nullptr;
    CHECK(shared_board->born - shared_board->dead == left);
    CHECK(mapped->stats().used_count == left && mapped->stats().rejected_frees == 0);
    mapped->check();
    printf("names: %u objects came, %u went\n", shared_board->born.load(), shared_board->dead.load());
    mapped_pool::remove(where);
}

} // namespace

int main() {
    shared_board = new (map_shared(sizeof(board))) board{};
    const place where = place::shm("mempool-cpp-shared-" + std::to_string(getpid()));
    test_containers(where);
    test_not_attached(where);
    test_names();
    test_race_of_names(where);
    test_coming_and_going(where);
    return PASSED();
}
