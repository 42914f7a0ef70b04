// Standard containers in a pool, by std::pmr and by the allocator, against the same ones on the heap: random
// operations, and at the end of each round a pool that is sound and as whole as it was.
// also sanitized: -O0 -fsanitize=address,undefined -fno-sanitize-recover=all
#include "mempool.hpp"

#include "test.h"

#include <deque>
#include <list>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

alignas(4096) unsigned char buffer[4 << 20];

template <class T> using shared_vector = std::vector<T, mempool::allocator<T>>;

// Every operation is done twice.
struct twins {
    explicit twins(const mempool::pool &pool, mempool::memory_resource *resource)
        : here(pool), map(resource), hashed(resource), list(resource), deque(resource), string(resource),
          vector(resource), rows(pool) {}

    const mempool::pool &here;
    std::pmr::map<unsigned, std::pmr::string> map;
    std::map<unsigned, std::string> plain_map;
    std::pmr::unordered_map<unsigned, std::pmr::vector<unsigned>> hashed;
    std::unordered_map<unsigned, std::vector<unsigned>> plain_hashed;
    std::pmr::list<std::pmr::string> list;
    std::list<std::string> plain_list;
    std::pmr::deque<unsigned> deque;
    std::deque<unsigned> plain_deque;
    std::pmr::string string;
    std::string plain_string;
    std::pmr::vector<std::pmr::string> vector;
    std::vector<std::string> plain_vector;
    shared_vector<shared_vector<unsigned>> rows;
    std::vector<std::vector<unsigned>> plain_rows;
};

template <class Map, class Make> void change(Map &map, unsigned key, unsigned how, Make make) {
    switch (how) {
    case 0: map.erase(key); break;
    case 1: map.emplace(key, make()); break;
    case 2: map[key] = make(); break;
    default: map.erase(map.begin(), map.find(key)); // of an unordered one all, or a part that is as good as any
    }
}

void change_maps(twins &t, unsigned key, unsigned value, unsigned how) {
    std::string text(value % 300, static_cast<char>('a' + value % 26));
    change(t.plain_map, key, how, [&] { return text; });
    change(t.map, key, how, [&] { return std::pmr::string(text, t.map.get_allocator()); });
    how %= 3; // the order of the unordered ones is their own
    std::vector<unsigned> numbers(value % 100, value);
    change(t.plain_hashed, key, how, [&] { return numbers; });
    change(t.hashed, key, how, [&] {
        return std::pmr::vector<unsigned>(numbers.begin(), numbers.end(), t.hashed.get_allocator());
    });
}

template <class List> void change_list(List &list, unsigned value, unsigned how) {
    using text = typename List::value_type;
    switch (how) {
    case 0: list.emplace_back(value % 200, 'x'); break;
    case 1: list.emplace_front(value % 20, 'y'); break;
    case 2: list.remove_if([&](const text &s) { return s.size() % 7 == value % 7; }); break;
    default: list.sort();
    }
}

template <class Row> void change_row(Row &row, unsigned value, unsigned how) {
    switch (how) {
    case 0: row.push_back(value); break;
    case 1: row.insert(row.begin(), value); break;
    case 2: row.insert(row.begin() + static_cast<std::ptrdiff_t>(value % (row.size() + 1)), value % 50, value); break;
    default: row.erase(row.begin(), row.begin() + static_cast<std::ptrdiff_t>(row.size() / 2));
    }
}

void change_strings(twins &t, unsigned value, unsigned how) {
    if (how == 0 || t.vector.empty()) {
        t.plain_vector.emplace_back(value % 100, 'z');
        t.vector.emplace_back(value % 100, 'z');
    } else if (how == 1) {
        std::swap(t.plain_vector.front(), t.plain_vector.back());
        std::swap(t.vector.front(), t.vector.back());
    } else {
        t.plain_vector.pop_back();
        t.vector.pop_back();
    }
    t.plain_string.append(value % 50, static_cast<char>('a' + how));
    t.string.append(value % 50, static_cast<char>('a' + how));
    if (value % 64 == 0) {
        t.plain_string.clear();
        t.string = std::pmr::string(t.string.get_allocator());
    }
}

void change_rows(twins &t, unsigned value, unsigned how) {
    if (t.rows.empty() || value % 8 == 0) {
        t.plain_rows.emplace_back(value % 30, value);
        t.rows.emplace_back(value % 30, value, t.here);
    } else if (value % 61 == 0) {
        t.plain_rows.erase(t.plain_rows.begin());
        t.rows.erase(t.rows.begin());
    } else {
        change_row(t.plain_rows[value % t.plain_rows.size()], value, how);
        change_row(t.rows[value % t.rows.size()], value, how);
    }
}

template <class A, class B> bool same(const A &a, const B &b) { return std::equal(a.begin(), a.end(), b.begin(), b.end()); }

// Strings of different allocators have no common ==, but both are views.
template <class A, class B> bool same_texts(const A &a, const B &b) {
    auto same_text = [](std::string_view x, std::string_view y) { return x == y; };
    return std::equal(a.begin(), a.end(), b.begin(), b.end(), same_text);
}

void check_same(const twins &t) {
    CHECK(std::string_view(t.string) == t.plain_string && same(t.deque, t.plain_deque));
    CHECK(same_texts(t.list, t.plain_list) && same_texts(t.vector, t.plain_vector));
    CHECK(t.map.size() == t.plain_map.size() && t.hashed.size() == t.plain_hashed.size());
    for (const auto &[key, text] : t.plain_map) {
        CHECK(std::string_view(t.map.at(key)) == text);
    }
    for (const auto &[key, numbers] : t.plain_hashed) {
        CHECK(same(t.hashed.at(key), numbers));
    }
    CHECK(t.rows.size() == t.plain_rows.size());
    for (std::size_t i = 0; i < t.rows.size(); i++) {
        CHECK(same(t.rows[i], t.plain_rows[i]) && (t.rows[i].empty() || t.here.contains(t.rows[i].data())));
    }
}

unsigned play(const mempool::pool &pool, std::uint64_t &random) {
    mempool::memory_resource resource(pool);
    twins t(pool, &resource);
    unsigned steps = 1 + rng_below(&random, 1000);
    for (unsigned i = 0; i < steps; i++) {
        unsigned value = rng_below(&random, 1 << 16), how = rng_below(&random, 4);
        switch (rng_below(&random, 5)) {
        case 0: change_maps(t, value % 64, value, how == 3 && i % 8 != 0 ? 1 : how); break;
        case 1: {
            change_list(t.plain_list, value, how);
            change_list(t.list, value, how);
            break;
        }
        case 2: {
            change_row(t.plain_deque, value, how);
            change_row(t.deque, value, how);
            break;
        }
        case 3: change_strings(t, value, how); break;
        default: change_rows(t, value, how);
        }
        if (i % 16 == 0) {
            check_same(t);
        }
    }
    check_same(t);
    pool.check();
    CHECK(pool.stats().used_count > 0);
    return steps;
}

} // namespace

int main() {
    mempool::on_bad_free([](const void *, std::error_code code) { CHECK(!code); });
    std::uint64_t random = rng_seed(0), deadline_ns = now_ns() + run_ns() / 2;
    unsigned rounds = 0;
    unsigned long steps = 0;
    for (; rounds < 8 || now_ns() < deadline_ns; rounds++) {
        mempool::options options;
        options.align = std::size_t{8} << rounds % 4;
        options.flags = rounds % 3 == 0 ? MEMPOOL_NO_THREAD_CACHES : 0;
        mempool::pool pool = mempool::pool::init(buffer, sizeof buffer, options);
        mempool_stats_t fresh = check_quiet(pool.handle());
        steps += play(pool, random);
        check_whole(pool.handle(), &fresh);
    }
    printf("%u rounds, %lu steps\n", rounds, steps);
    return PASSED();
}
