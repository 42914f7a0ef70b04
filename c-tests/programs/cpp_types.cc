// mempool.hpp in one process: each type by itself, and what it does when something is wrong.
// also cpp20: -O0 -std=c++20 -Wshadow
// also bare: -O0 -fno-exceptions -fno-rtti -Wshadow
// also sanitized: -O0 -fsanitize=address,undefined -fno-sanitize-recover=all
#include "mempool.hpp"
#include "mempool.hpp"

#include "test.h"

#include <array>
#include <map>
#include <thread>
#include <vector>

namespace {

template <class T> using shared_vector = std::vector<T, mempool::allocator<T>>;

alignas(4096) unsigned char buffer[1 << 20];
alignas(4096) unsigned char other_buffer[1 << 20];

void check_no_blocks(const mempool::pool &pool) { CHECK(pool.stats().used_count == 0); }

// ---- offset_ptr ----

struct incomplete;
struct node {
    mempool::offset_ptr<node> next;
    mempool::offset_ptr<incomplete> hidden;
    int value = 0;
};
struct incomplete {
    int value;
};
struct base {
    int b = 1;
};
struct derived : base {
    int d = 2;
};

using mempool::offset_ptr;
static_assert(sizeof(offset_ptr<int>) == sizeof(void *));
static_assert(std::is_same_v<std::pointer_traits<offset_ptr<int>>::element_type, int>);
static_assert(std::is_same_v<std::pointer_traits<offset_ptr<int>>::rebind<const void>, offset_ptr<const void>>);
static_assert(std::is_same_v<std::iterator_traits<offset_ptr<const int>>::value_type, int>);
static_assert(std::is_convertible_v<offset_ptr<int>, offset_ptr<const int>>);
static_assert(!std::is_convertible_v<offset_ptr<const int>, offset_ptr<int>>);
static_assert(!std::is_constructible_v<offset_ptr<int>, offset_ptr<const int>>);
static_assert(std::is_convertible_v<offset_ptr<derived>, offset_ptr<base>>);
static_assert(!std::is_convertible_v<offset_ptr<base>, offset_ptr<derived>>);
static_assert(std::is_constructible_v<offset_ptr<derived>, offset_ptr<base>>);
static_assert(std::is_convertible_v<offset_ptr<int>, offset_ptr<void>>);
static_assert(!std::is_convertible_v<offset_ptr<void>, offset_ptr<int>>);
static_assert(std::is_constructible_v<offset_ptr<int>, offset_ptr<void>>);
static_assert(!std::is_constructible_v<offset_ptr<int>, offset_ptr<double>>);
static_assert(std::is_nothrow_copy_constructible_v<offset_ptr<int>>);
#if __cplusplus >= 202002L
static_assert(std::random_access_iterator<offset_ptr<int>>);
static_assert(std::totally_ordered<offset_ptr<int>>);
#endif

// The word in a pointer, which is part of what processes share.
std::uintptr_t word_of(const void *pointer) {
    std::uintptr_t word;
    memcpy(&word, pointer, sizeof word);
    return word;
}

void test_offset_ptr() {
    offset_ptr<int> null, also_null = nullptr, made_null = static_cast<int *>(nullptr);
    CHECK(!null && null == nullptr && nullptr == null && null == also_null && null == made_null && !(null < also_null));
    CHECK(null.get() == nullptr && word_of(&null) == 1);
    offset_ptr<int> copy(null);
    CHECK(!copy && word_of(&copy) == 1); // not the distance to address 0
    copy = null;
    CHECK(word_of(&copy) == 1);
    CHECK(word_of(&static_cast<const offset_ptr<const void> &>(offset_ptr<const void>(null))) == 1);

    int row[10] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    offset_ptr<int> p = row;
    CHECK(p && p.get() == row && *p == 0 && p[3] == 3 && p == row && row == p && p != null);
    CHECK(word_of(&p) == reinterpret_cast<std::uintptr_t>(row) - reinterpret_cast<std::uintptr_t>(&p));
    offset_ptr<int> q = p + 4;
    CHECK(*q == 4 && q - p == 4 && p < q && q > p && p <= q && q >= q && 1 + p == p + 1 && *(q - 2) == 2);
    CHECK(*q++ == 4 && *q == 5 && *++q == 6 && *q-- == 6 && *--q == 4);
    q += 5;
    CHECK(*q == 9);
    q -= 9;
    CHECK(q == p);
    std::swap(p, q += 1);
    CHECK(*p == 1 && *q == 0);
    CHECK(std::pointer_traits<offset_ptr<int>>::pointer_to(row[7]) == row + 7);
    CHECK(std::hash<offset_ptr<int>>()(p) == std::hash<int *>()(p.get()));
#if __cplusplus >= 202002L
    CHECK(std::to_address(p) == row + 1);
#endif

    // Moved in memory, a pointer means another place; copied, the same.
    std::array<offset_ptr<int>, 2> pair{p, nullptr};
    pair[1] = pair[0];
    CHECK(pair[0] == pair[1] && word_of(&pair[0]) != word_of(&pair[1]));

    derived both;
    offset_ptr<base> up = offset_ptr<derived>(&both);
    offset_ptr<derived> down(up);
    CHECK(up->b == 1 && down->d == 2 && mempool::static_pointer_cast<derived>(up) == down);
    offset_ptr<const int> constant = p;
    CHECK(constant == p && mempool::const_pointer_cast<int>(constant) == p);
    offset_ptr<void> any = p;
    CHECK(static_cast<offset_ptr<int>>(any) == p && offset_ptr<const void>(any) == constant);

    // 0 is a pointer to itself, and no null.
    node self;
    self.next = &self;
    CHECK(self.next && self.next.get() == &self && word_of(&self.next) == 0 && self.next->next->value == 0);
    incomplete whole{7};
    self.hidden = &whole;
    CHECK(self.hidden->value == 7);

    // What an optimiser must not take for an access to the pointer itself.
    node chain[3];
    chain[0].next = chain + 1;
    chain[1].next = chain + 2;
    for (offset_ptr<node> at = chain; at; at = at->next) {
        at->value++;
    }
    CHECK(chain[0].value == 1 && chain[1].value == 1 && chain[2].value == 1);
}

// ---- pool, errors ----

void test_errors() {
    std::error_code code = mempool::errc::corrupted;
    CHECK(code == std::errc::io_error && code == mempool::errc::corrupted && code != mempool::errc::busy);
    CHECK(std::string(code.category().name()) == "mempool" && code.message() == mempool_strerror(MEMPOOL_ERR_CORRUPTED));
    CHECK(make_error_code(mempool::errc::out_of_memory) == std::errc::not_enough_memory);
    CHECK(make_error_code(mempool::errc::exists) == std::errc::file_exists);
    CHECK(make_error_code(mempool::errc::not_found) == std::errc::no_such_file_or_directory);

    memset(buffer, 0, sizeof buffer);
    CHECK(!mempool::pool::attach(buffer, sizeof buffer, 0, code) && code == mempool::errc::not_a_pool);
    CHECK(!mempool::pool::init(buffer, 10, {}, code) && code == mempool::errc::buffer_too_small);
    bool created = true;
    CHECK(!mempool::pool::open(nullptr, 10, {}, &created, code) && code == std::errc::invalid_argument && !created);

    mempool::pool pool = mempool::pool::init(buffer, sizeof buffer);
    CHECK(pool.begin() == buffer && pool.size() == sizeof buffer && pool.align() == 16);
    CHECK(pool.contains(buffer) && !pool.contains(buffer + sizeof buffer));
    CHECK(pool.allocate(2 * sizeof buffer, 8, code) == nullptr && code == mempool::errc::out_of_memory);
    void *block = pool.allocate(100);
    CHECK(pool.pointer(pool.offset(block)) == block);
    pool.deallocate(block, code);
    CHECK(!code);
    pool.deallocate(block, code);
    CHECK(code == mempool::errc::not_allocated);
    pool.deallocate(&code, code);
    CHECK(code == mempool::errc::foreign_pointer);
    check_no_blocks(pool);

    mempool::pool moved = std::move(pool), empty;
    CHECK(!pool && moved && moved.begin() == buffer);
    moved = std::move(empty);
    CHECK(!moved);
    moved.close();

#ifdef __cpp_exceptions
    pool = mempool::pool::attach(buffer, sizeof buffer);
    try {
        pool.deallocate(buffer + 1);
        CHECK(!"refused");
    } catch (const std::system_error &error) {
        CHECK(error.code().category() == mempool::category() && error.code().value() == mempool_last_error());
        CHECK(strstr(error.what(), "mempool_free: ") != nullptr); // what the library said
    }
    try {
        (void)pool.make<std::array<char, sizeof buffer>>();
        CHECK(!"no room");
    } catch (const std::bad_alloc &error) {
        CHECK(dynamic_cast<const mempool::bad_alloc &>(error).code() == mempool::errc::out_of_memory);
    }
    try {
        (void)pool.make_unique<int[]>(SIZE_MAX / 2);
        CHECK(!"no room");
    } catch (const mempool::bad_alloc &) {
    }
#endif
}

void test_start_option() {
    mempool::options options;
    options.start = 5000;
    options.end = 300000;
    options.align = 64;
    bool created = false;
    memset(buffer, 0, sizeof buffer);
    mempool::pool pool = mempool::pool::open(buffer, sizeof buffer, options, &created);
    CHECK(created && pool.begin() == buffer + 5000 && pool.size() == 295000 && pool.align() == 64);
    mempool::pool twin = mempool::pool::attach(buffer, sizeof buffer, 5000);
    CHECK(twin.begin() == pool.begin() && twin.size() == pool.size());
    shared_vector<int> one(pool), other(twin);
    CHECK(one.get_allocator() == other.get_allocator());
    one.assign(100, 1);
    other = std::move(one); // one pool: the row itself moves
    CHECK(one.empty() && other.size() == 100 && pool.stats().used_count == 1);
    std::error_code code;
    pool.close(code); // the vector goes on by the other handle
    CHECK(!code);
    other = shared_vector<int>(twin);
    check_no_blocks(twin);
}

// ---- allocator ----

const void *bad_block;
std::error_code bad_code;

void test_allocator() {
    mempool::pool pool = mempool::pool::init(buffer, sizeof buffer);
    mempool::pool second = mempool::pool::init(other_buffer, sizeof other_buffer);
    {
        shared_vector<std::uint64_t> v(pool), w(second);
        for (std::uint64_t i = 0; i < 1000; i++) {
            v.push_back(i);
            w.push_back(2 * i);
        }
        CHECK(pool.contains(v.data()) && second.contains(w.data()) && v.get_allocator() != w.get_allocator());
        CHECK(v.get_allocator().handle() == pool.handle() && w.get_allocator().handle() == second.handle());
        w = v; // between pools by element, and the allocators stay
        CHECK(w == v && second.contains(w.data()));
        w = std::move(v);
        CHECK(w[999] == 999 && second.contains(w.data()));
        mempool::allocator<char> of_char(v.get_allocator());
        CHECK(of_char == v.get_allocator() && of_char != mempool::allocator<char>(second));

        struct alignas(256) wide {
            char byte = 1;
        };
        shared_vector<wide> wides(pool);
        for (unsigned i = 0; i < 100; i++) {
            wides.emplace_back();
            CHECK(reinterpret_cast<std::uintptr_t>(wides.data()) % alignof(wide) == 0);
        }
        // A vector of vectors, all of which lie in the pool.
        auto *rows = pool.make<shared_vector<shared_vector<int>>>(pool);
        for (int i = 0; i < 20; i++) {
            rows->emplace_back(static_cast<std::size_t>(i), i, pool);
        }
        CHECK((*rows)[19].size() == 19 && (*rows)[19][18] == 19 && pool.contains((*rows)[19].data()));
        pool.destroy(rows);
    }
    check_no_blocks(pool);
    check_no_blocks(second);

    // A pool that this process has not attached, or no more.
    mempool::on_bad_free([](const void *block, std::error_code code) {
        bad_block = block;
        bad_code = code;
    });
    auto *orphan = new shared_vector<int>(3, 1, second);
    const int *row = orphan->data();
    second.close();
    CHECK(orphan->get_allocator().handle() == nullptr);
#ifdef __cpp_exceptions
    try {
        orphan->resize(100);
        CHECK(!"no such pool here");
    } catch (const mempool::bad_alloc &error) {
        CHECK(error.code() == mempool::errc::not_a_pool);
    }
#endif
    delete orphan;
    CHECK(bad_block == row && bad_code == mempool::errc::not_a_pool);
    second = mempool::pool::attach(other_buffer, sizeof other_buffer);
    CHECK(second.stats().used_count == 1); // the row is where it was, and nothing worse
    mempool::allocator<int>(second).deallocate(const_cast<int *>(row), 3);
    check_no_blocks(second);

    bad_block = nullptr;
    mempool::allocator<int>(second).deallocate(const_cast<int *>(row), 3);
    CHECK(bad_block == row && bad_code == mempool::errc::not_allocated && second.stats().rejected_frees == 1);
    CHECK(mempool::on_bad_free(nullptr) != nullptr);
}

// Pools come and go in some threads; others allocate from ones that stay, and always find them.
void test_registry() {
    constexpr unsigned threads = 4, rounds = 300;
    static unsigned char small[threads][4096];
    mempool::pool pool = mempool::pool::init(buffer, sizeof buffer);
    mempool::pool second = mempool::pool::init(other_buffer, sizeof other_buffer);
    std::vector<std::thread> crew;
    for (unsigned t = 0; t < threads; t++) {
        crew.emplace_back([&, t] {
            for (unsigned i = 0; i < rounds; i++) {
                mempool::pool mine = mempool::pool::init(small[t], sizeof small[t]);
                mempool::pool again = mempool::pool::attach(small[t], sizeof small[t]);
                shared_vector<unsigned> a(pool), b(second), c(mine);
                for (unsigned j = 0; j < 20; j++) {
                    a.push_back(j);
                    b.push_back(j);
                    c.push_back(j);
                }
                CHECK(a == b && b == c && mine.contains(c.data()));
                CHECK(c.get_allocator().handle() == mine.handle() || c.get_allocator().handle() == again.handle());
            }
        });
    }
    for (std::thread &one : crew) {
        one.join();
    }
    check_no_blocks(pool);
    check_no_blocks(second);
}

// ---- make, unique_ptr ----

struct counted {
    static inline int alive = 0;
    int number;
    explicit counted(int n = 5) : number(n) { alive++; }
    counted(const counted &) = delete;
    ~counted() { alive--; }
};

#ifdef __cpp_exceptions
struct thrower {
    static inline int left = 0;
    thrower() {
        if (left-- == 0) {
            throw 7;
        }
        counted::alive++;
    }
    ~thrower() { counted::alive--; }
};
#endif

void test_make() {
    mempool::pool pool = mempool::pool::init(buffer, sizeof buffer);
    std::error_code code;
    counted *object = pool.make<counted>(42);
    CHECK(object->number == 42 && counted::alive == 1 && pool.contains(object));
    pool.destroy(object);
    CHECK(counted::alive == 0);
    pool.destroy(object, code); // twice: refused, and not destroyed again
    CHECK(code == mempool::errc::not_allocated && counted::alive == 0);
    pool.destroy(static_cast<counted *>(nullptr));
    {
        mempool::unique_ptr<counted> one = pool.make_unique<counted>(1);
        auto three = pool.make_unique<counted[]>(3);
        CHECK(one->number == 1 && three[2].number == 5 && counted::alive == 4);
        static_assert(sizeof one == sizeof(void *));
        // An owner in the pool itself.
        auto *owner = pool.make<mempool::unique_ptr<counted>>(std::move(one));
        CHECK(!one && (*owner)->number == 1);
        pool.destroy(owner);
        CHECK(counted::alive == 3);
        auto none = pool.make_unique<counted[]>(0);
        mempool::unique_ptr<const counted> constant(pool.make<const counted>(2));
    }
    CHECK(counted::alive == 0);
    struct alignas(1024) wide {
        char bytes[1024];
    };
    auto wides = pool.make_unique<wide[]>(3);
    CHECK(reinterpret_cast<std::uintptr_t>(wides.get().get()) % 1024 == 0 && wides[2].bytes[1023] == 0);
    wides.reset();
#ifdef __cpp_exceptions
    thrower::left = 0;
    try {
        pool.make<thrower>();
        CHECK(!"it throws");
    } catch (int) {
    }
    thrower::left = 5;
    try {
        (void)pool.make_unique<thrower[]>(10);
        CHECK(!"it throws");
    } catch (int) {
    }
    CHECK(counted::alive == 0);
#endif
    check_no_blocks(pool);
}

void test_memory_resource() {
    mempool::pool pool = mempool::pool::init(buffer, sizeof buffer);
    mempool::memory_resource resource(pool), twin(pool);
    {
        std::pmr::map<int, std::pmr::string> map(&resource);
        for (int i = 0; i < 100; i++) {
            map.emplace(i, std::string(static_cast<std::size_t>(i), 'x'));
        }
        CHECK(pool.contains(&*map.begin()) && pool.contains(map.at(99).data()) && map.at(99).size() == 99);
        void *wide = resource.allocate(100, 512);
        CHECK(reinterpret_cast<std::uintptr_t>(wide) % 512 == 0);
        resource.deallocate(wide, 100, 512);
        resource.deallocate(resource.allocate(0), 0);
    }
#ifdef __cpp_rtti
    CHECK(resource == twin && resource != *std::pmr::new_delete_resource());
#endif
    CHECK(resource == resource);
    check_no_blocks(pool);
}

} // namespace

int main() {
    test_offset_ptr();
    test_errors();
    test_start_option();
    test_allocator();
    test_registry();
    test_make();
    test_memory_resource();
    return PASSED();
}
