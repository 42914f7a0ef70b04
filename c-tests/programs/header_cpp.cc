// The header alone, as C++17, with no cast of C's and no other zero for a pointer: its macros work in expressions and
// in templates, and its structures are brace-initialised.
#include "mempool.h"
#include "mempool.h"

#include "check.h"

#include <cstdint>
#include <type_traits>

static_assert(std::is_standard_layout_v<mempool_options_t> && std::is_trivially_copyable_v<mempool_options_t>);
static_assert(std::is_same_v<mempool_status_t, std::int32_t>);

namespace {

alignas(16) unsigned char buffer[16384];

template <typename T> T *make(mempool_t *pool, std::size_t n) { return MEMPOOL_NEW0(pool, T, n); }

struct Counter {
    std::uint64_t blocks = 0;
};

bool count(const mempool_block_t *block, void *context) {
    static_cast<Counter *>(context)->blocks += block->state == MEMPOOL_BLOCK_LIVE;
    return true;
}

} // namespace

int main() {
    mempool_options_t options = MEMPOOL_OPTIONS_INIT;
    CHECK(options.struct_size == sizeof options && options.align == 0 && options.max_threads == 0);
    mempool_t *pool = nullptr;
    CHECK(mempool_init(buffer, sizeof buffer, &options, &pool) == MEMPOOL_OK);

    double *doubles = MEMPOOL_NEW(pool, double, 100);
    CHECK(doubles != nullptr);
    doubles[99] = 2.5;
    auto *numbers = make<std::uint32_t>(pool, 7);
    CHECK(numbers != nullptr && numbers[0] == 0 && numbers[6] == 0);
    volatile std::size_t too_many = SIZE_MAX / 2;
    errno = 0;
    CHECK(MEMPOOL_NEW(pool, double, too_many) == nullptr && errno == ENOMEM);

    Counter counter;
    CHECK(mempool_walk(pool, count, &counter) == MEMPOOL_OK && counter.blocks == 2);
    mempool_stats_t stats = MEMPOOL_STATS_INIT;
    CHECK(mempool_stats(pool, &stats) == MEMPOOL_OK && stats.used_count == 2);
    CHECK(mempool_free(pool, doubles) == MEMPOOL_OK && mempool_free(pool, numbers) == MEMPOOL_OK);
    CHECK(mempool_check(pool) == MEMPOOL_OK);
    CHECK(mempool_detach(pool) == MEMPOOL_OK);
    return PASSED();
}
