/*
 * A list of scores that lies in shared memory: who starts this program first makes it, whoever comes adds to it, each with
 * the memory at an address of its own. The last lines show what a second process sees.
 *
 *   c++ -std=c++17 containers.cpp $(pkg-config --cflags --libs mempool) -lrt -o containers && ./containers
 *
 * With Boost.Container's headers there is a map of names as well; the standard library's map and string keep plain pointers.
 */
#include <mempool.hpp>

#include <cstdio>
#include <string>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

using scores = std::vector<int, mempool::allocator<int>>;

#if __has_include(<boost/container/map.hpp>)
#include <boost/container/map.hpp>
#include <boost/container/scoped_allocator.hpp>
#include <boost/container/string.hpp>

namespace bc = boost::container;
using text = bc::basic_string<char, std::char_traits<char>, mempool::allocator<char>>;
using entry_allocator = mempool::allocator<std::pair<const text, text>>;
using phone_book = bc::map<text, text, std::less<text>, bc::scoped_allocator_adaptor<entry_allocator>>;

static void write_book(const mempool::pool &pool) {
    phone_book &book = *pool.find_or_construct<phone_book>("book", entry_allocator(pool));
    mempool::allocator<char> here(pool);
    book[text("Ada", here)] = "1815";
    book[text("Grace", here)] = "1906";
}

static void read_book(const mempool::pool &pool) {
    for (const auto &[name, year] : *pool.find<phone_book>("book"))
        std::printf("%s: %s\n", name.c_str(), year.c_str());
}

static void end_book(const mempool::pool &pool) { pool.destroy<phone_book>("book"); }
#else
static void write_book(const mempool::pool &) {}
static void read_book(const mempool::pool &) {}
static void end_book(const mempool::pool &) {}
#endif

int main() {
    const auto place = mempool::place::shm("mempool-scores-" + std::to_string(getpid()));
    auto mapped = mempool::mapped_pool::open_or_create(place, 1 << 20);
    const mempool::pool &pool = *mapped;

    scores &mine = *pool.find_or_construct<scores>("scores", pool);
    mine.assign({3, 1, 4});
    write_book(pool);

    const pid_t child = fork();
    if (child == 0) {                               // what it inherits stays, so its own mapping lies elsewhere
        auto other = mempool::mapped_pool::open(place);
        scores &same = *other->find<scores>("scores");
        same.push_back(1);                          // may move the row: allocated here, freed there
        std::printf("at %p here, at %p there:", static_cast<void *>(&same), static_cast<void *>(&mine));
        for (int score : same)
            std::printf(" %d", score);
        std::puts("");
        read_book(*other);
        return 0;
    }
    int status = 0;
    waitpid(child, &status, 0);
    mempool::mapped_pool::remove(place);

    std::printf("%zu scores, %d the last\n", mine.size(), mine.back());
    pool.destroy<scores>("scores");
    end_book(pool);
    pool.check();                                   // throws if anything is wrong
    return status != 0 || pool.stats().used_count != 0;
}
