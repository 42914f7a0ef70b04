// What a C++ program outside this repository does with the library: the handle and the blocks in smart pointers.
// Exits with 0 and prints the version, or dies by an assertion.
#undef NDEBUG
#include <cassert>
#include <cstddef>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <mempool.h>

struct Detach {
    void operator()(mempool_t *pool) const { assert(mempool_detach(pool) == MEMPOOL_OK); }
};
using Pool = std::unique_ptr<mempool_t, Detach>;

struct Free {
    mempool_t *pool;
    void operator()(void *block) const { assert(mempool_free(pool, block) == MEMPOOL_OK); }
};
template <typename T> using Block = std::unique_ptr<T[], Free>;

static Pool pool_in(std::vector<std::byte> &memory)
{
    mempool_t *pool = nullptr;
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    assert(mempool_init(memory.data(), memory.size(), &options, &pool) == MEMPOOL_OK);
    return Pool(pool);
}

int main()
{
    std::vector<std::byte> memory(64 * 1024);
    Pool pool = pool_in(memory);
    mempool_stats_t stats = MEMPOOL_STATS_INIT;
    {
        Block<double> numbers(MEMPOOL_NEW(pool.get(), double, 100), Free{pool.get()});
        Block<char> zeros(MEMPOOL_NEW0(pool.get(), char, 100), Free{pool.get()});
        assert(numbers && zeros && zeros[99] == 0);
        numbers[99] = 1.5;
        assert(mempool_stats(pool.get(), &stats) == MEMPOOL_OK && stats.used_count == 2);

        unsigned live = 0;
        auto count = [](const mempool_block_t *block, void *context) {
            *static_cast<unsigned *>(context) += block->state == MEMPOOL_BLOCK_LIVE;
            return true;
        };
        assert(mempool_walk(pool.get(), count, &live) == MEMPOOL_OK && live == 2);
    }
    assert(mempool_stats(pool.get(), &stats) == MEMPOOL_OK && stats.used_count == 0);
    assert(mempool_check(pool.get()) == MEMPOOL_OK);

    const std::string version = mempool_version();
    assert(version == std::to_string(MEMPOOL_VERSION_MAJOR) + "." + std::to_string(MEMPOOL_VERSION_MINOR) + "."
                          + std::to_string(MEMPOOL_VERSION_PATCH));
    std::cout << version << '\n';
}
