// SPDX-License-Identifier: MIT OR Apache-2.0
//
// mempool at home in C++: C++17, header-only, no more than mempool.h and its library.
//
//   pool               a handle, ended with its scope; the buffer stays yours
//   mapped_pool        a pool in a shared memory object or a file, mapped for as long as it lives
//   allocator<T>       for containers that lie in the pool themselves and are used by many processes
//   offset_ptr<T>      what such containers point with: means the same wherever the pool is mapped
//   unique_ptr<T>      owns an object of a pool, and may itself lie there
//   memory_resource    for std::pmr; its containers hold plain pointers and are one process's own
//   errc, error        the statuses of mempool.h as std::error_code and exception
//
// Errors      What can fail comes twice: with a std::error_code & it never throws on its own account
//             (make and construct: try_make and try_construct); without it throws mempool::error, a
//             std::system_error, or where memory was asked for mempool::bad_alloc, a std::bad_alloc.
//             Compiled with -fno-exceptions, what would throw prints its message and aborts.
// Bad frees   A destructor or deallocate cannot report that the pool refused a pointer. The pool
//             has counted it (rejected_frees), is unchanged, and tells on_bad_free's handler, if any.
// Processes   Put only into a shared pool what means the same elsewhere: offset_ptr, no plain
//             pointers or references, no virtual functions, no standard strings or nodes.
// Threads     A pool may be used by any thread at any time, but moved, closed or destroyed only when
//             no other uses it. What allocators and unique_ptrs need to know of the pools attached in
//             this process stands in one registry per process: no lock, safe in a fork's child.
//             With dlopen(RTLD_LOCAL) and clang each module has a registry of its own.
// Linking     What mapped_pool needs of shm_open lies in -lrt where glibc is older than 2.34.
#ifndef MEMPOOL_HPP
#define MEMPOOL_HPP

#include "mempool.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iterator>
#include <memory>
#include <memory_resource>
#include <new>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

// One of it in the process, whatever visibility its modules are compiled with.
#define MEMPOOL_ONE_PER_PROCESS __attribute__((visibility("default")))

namespace mempool {

// ---- Errors ----

enum class errc : int {
    invalid_argument = MEMPOOL_ERR_INVALID_ARGUMENT,
    buffer_too_small = MEMPOOL_ERR_BUFFER_TOO_SMALL,
    buffer_too_large = MEMPOOL_ERR_BUFFER_TOO_LARGE,
    not_a_pool = MEMPOOL_ERR_NOT_A_POOL,
    incompatible = MEMPOOL_ERR_INCOMPATIBLE,
    out_of_memory = MEMPOOL_ERR_OUT_OF_MEMORY,
    foreign_pointer = MEMPOOL_ERR_FOREIGN_POINTER,
    not_allocated = MEMPOOL_ERR_NOT_ALLOCATED,
    corrupted = MEMPOOL_ERR_CORRUPTED,
    not_found = MEMPOOL_ERR_NOT_FOUND,
    exists = MEMPOOL_ERR_EXISTS,
    busy = MEMPOOL_ERR_BUSY,
};

namespace detail {

class MEMPOOL_ONE_PER_PROCESS status_category final : public std::error_category {
  public:
    const char *name() const noexcept override { return "mempool"; }
    std::string message(int status) const override { return mempool_strerror(status); }
    std::error_condition default_error_condition(int status) const noexcept override {
        switch (static_cast<errc>(status)) {
        case errc::invalid_argument:
        case errc::foreign_pointer:
        case errc::not_allocated: return std::errc::invalid_argument;
        case errc::out_of_memory: return std::errc::not_enough_memory;
        case errc::corrupted: return std::errc::io_error;
        case errc::not_found: return std::errc::no_such_file_or_directory;
        case errc::exists: return std::errc::file_exists;
        case errc::busy: return std::errc::device_or_resource_busy;
        default: return {status, *this};
        }
    }
};

} // namespace detail

MEMPOOL_ONE_PER_PROCESS inline const std::error_category &category() noexcept {
    static const detail::status_category one;
    return one;
}

inline std::error_code make_error_code(errc code) noexcept { return {static_cast<int>(code), category()}; }

} // namespace mempool

template <> struct std::is_error_code_enum<mempool::errc> : std::true_type {};

namespace mempool {

// code() says which; what() is the line that mempool_last_message had.
class error : public std::system_error {
  public:
    using std::system_error::system_error;
};

// No room, no such pool in this process, or whatever else kept memory from coming: code() says which.
class bad_alloc : public std::bad_alloc {
  public:
    explicit bad_alloc(std::error_code code) noexcept : code_(code) {}
    const std::error_code &code() const noexcept { return code_; }
    const char *what() const noexcept override {
        return code_.category() == category() ? mempool_strerror(code_.value()) : "mempool: no memory";
    }

  private:
    std::error_code code_;
};

namespace detail {

// Success is what std::error_code() is, in no category of ours.
inline std::error_code code_of(mempool_status_t status) noexcept {
    return status == MEMPOOL_OK ? std::error_code() : std::error_code(status, category());
}

inline std::error_code last_error() noexcept { return code_of(mempool_last_error()); }

inline std::error_code system_error() noexcept { return {errno, std::system_category()}; }

[[noreturn]] inline void die(const std::error_code &code, const char *what) noexcept {
    std::fprintf(stderr, "mempool: %s: error %d\n", what, code.value());
    std::abort();
}

[[noreturn]] inline void raise(const std::error_code &code, const char *what) {
#ifdef __cpp_exceptions
    throw error(code, what);
#else
    die(code, what);
#endif
}

[[noreturn]] inline void raise_no_memory(const std::error_code &code) {
#ifdef __cpp_exceptions
    throw bad_alloc(code);
#else
    die(code, bad_alloc(code).what());
#endif
}

// What the library said if it was the library that failed, else where it happened.
inline void check(const std::error_code &code, const char *where) {
    if (code) {
        raise(code, code.category() == category() && code == last_error() ? mempool_last_message() : where);
    }
}

} // namespace detail

// ---- Bad frees ----

// Told of each pointer that a pool refused where no caller can be: by deallocate, a unique_ptr, a
// memory_resource. not_a_pool: this process has attached no pool there.
using bad_free_handler = void (*)(const void *block, std::error_code code);

namespace detail {
MEMPOOL_ONE_PER_PROCESS inline std::atomic<bad_free_handler> bad_free{nullptr};
}

// For the whole process; nullptr, which it is at first, for none. Returns the one before.
inline bad_free_handler on_bad_free(bad_free_handler handler) noexcept { return detail::bad_free.exchange(handler); }

namespace detail {

inline void tell_bad_free(const void *block, std::error_code code) noexcept {
    if (bad_free_handler handler = bad_free.load()) {
        handler(block, code);
    }
}

inline void free_or_tell(mempool_t *handle, void *block) noexcept {
    mempool_status_t status = mempool_free(handle, block);
    if (status != MEMPOOL_OK) {
        tell_bad_free(block, code_of(status));
    }
}

// ---- The registry: which handle has the pool around an address ----
//
// An allocator in a pool cannot name a handle, which means nothing in other processes. It knows
// where the pool lies, by an offset_ptr, and asks here. A list of entries that are used again but
// never freed; each has a turn, odd while it changes, by which a reader sees that what it read
// belongs together. A changing entry is passed over: its pool is just coming or going, so nobody
// may be looking for it. Hence nobody waits, and a fork in the middle of a change harms no child.

struct found {
    std::uintptr_t begin = 0, end = 0;
    mempool_t *handle = nullptr;
    std::size_t align = 0;
    std::uint64_t generation = 0; // of the registry; 0: never
};

class entry {
  public:
    bool claim() noexcept {
        std::uint64_t turn = turn_.load(std::memory_order_acquire);
        return turn % 2 == 0 && handle_.load(std::memory_order_relaxed) == nullptr &&
               turn_.compare_exchange_strong(turn, turn + 1, std::memory_order_acq_rel);
    }

    // By who has claimed it, or whose it is.
    void set(const found &pool) noexcept {
        std::uint64_t turn = turn_.load(std::memory_order_relaxed) | 1;
        turn_.store(turn, std::memory_order_relaxed);
        std::atomic_thread_fence(std::memory_order_release);
        begin_.store(pool.begin, std::memory_order_relaxed);
        end_.store(pool.end, std::memory_order_relaxed);
        align_.store(pool.align, std::memory_order_relaxed);
        handle_.store(pool.handle, std::memory_order_relaxed);
        turn_.store(turn + 1, std::memory_order_release);
    }

    bool read(found &out) const noexcept {
        std::uint64_t turn = turn_.load(std::memory_order_acquire);
        out.begin = begin_.load(std::memory_order_relaxed);
        out.end = end_.load(std::memory_order_relaxed);
        out.align = align_.load(std::memory_order_relaxed);
        out.handle = handle_.load(std::memory_order_relaxed);
        std::atomic_thread_fence(std::memory_order_acquire);
        return turn % 2 == 0 && turn_.load(std::memory_order_relaxed) == turn && out.handle != nullptr;
    }

    entry *next = nullptr; // set before the entry is listed, and for ever

  private:
    std::atomic<std::uint64_t> turn_{0};
    std::atomic<std::uintptr_t> begin_{0}, end_{0};
    std::atomic<std::size_t> align_{0};
    std::atomic<mempool_t *> handle_{nullptr};
};

class registry {
  public:
    std::uint64_t generation() const noexcept { return generation_.load(std::memory_order_acquire); }

    // nullptr if the process has no memory.
    entry *add(const found &pool) noexcept {
        entry *place = first_.load(std::memory_order_acquire);
        while (place != nullptr && !place->claim()) {
            place = place->next;
        }
        if (place != nullptr) {
            place->set(pool);
        } else if ((place = new (std::nothrow) entry) != nullptr) {
            place->set(pool);
            place->next = first_.load(std::memory_order_relaxed);
            while (!first_.compare_exchange_weak(place->next, place, std::memory_order_release)) {
            }
        }
        generation_.fetch_add(1, std::memory_order_release);
        return place;
    }

    void remove(entry *place) noexcept {
        place->set(found{});
        generation_.fetch_add(1, std::memory_order_release);
    }

    bool find(std::uintptr_t address, found &out) const noexcept {
        for (const entry *at = first_.load(std::memory_order_acquire); at != nullptr; at = at->next) {
            if (at->read(out) && out.begin <= address && address < out.end) {
                return true;
            }
        }
        return false;
    }

  private:
    std::atomic<entry *> first_{nullptr};
    std::atomic<std::uint64_t> generation_{1};
};

MEMPOOL_ONE_PER_PROCESS inline registry attached;

[[gnu::noinline, gnu::cold]] inline bool find_anew(std::uintptr_t address, std::uint64_t generation,
                                                   found &last) noexcept {
    found now;
    if (!attached.find(address, now)) {
        return false;
    }
    now.generation = generation;
    last = now;
    return true;
}

// The pool around an address, or nullptr; each thread remembers where it looked last.
inline const found *find(const void *pointer) noexcept {
    static thread_local found last;
    std::uint64_t generation = attached.generation();
    auto address = reinterpret_cast<std::uintptr_t>(pointer);
    bool is_known = last.generation == generation && address - last.begin < last.end - last.begin;
    return is_known || find_anew(address, generation, last) ? &last : nullptr;
}

// ---- Bytes ----

inline void *allocate(mempool_t *handle, std::size_t align, std::size_t size, std::size_t alignment) noexcept {
    size = size == 0 ? 1 : size;
    return alignment <= align ? mempool_malloc(handle, size) : mempool_aligned_alloc(handle, alignment, size);
}

inline void deallocate(const volatile void *pointer) noexcept {
    void *block = const_cast<void *>(pointer);
    if (block == nullptr) {
        return;
    }
    if (const found *pool = find(block)) {
        free_or_tell(pool->handle, block);
    } else {
        tell_bad_free(block, make_error_code(errc::not_a_pool));
    }
}

// Gives a block back unless told to keep it: for a constructor that may throw.
class block_guard {
  public:
    block_guard(mempool_t *handle, void *block) noexcept : handle_(handle), block_(block) {}
    block_guard(const block_guard &) = delete;
    block_guard &operator=(const block_guard &) = delete;
    ~block_guard() {
        if (block_ != nullptr) {
            free_or_tell(handle_, block_);
        }
    }
    void keep() noexcept { block_ = nullptr; }

  private:
    mempool_t *handle_;
    void *block_;
};

} // namespace detail

// ---- offset_ptr ----

// A pointer as the distance from itself to its target: right in every process, as long as both lie
// in one mapping (or both in one process). To be copied by its constructors, never by memcpy. 1 says
// null, since 0 is an object that points to itself. T may be void or not yet complete.
template <class T> class offset_ptr {
  public:
    using element_type = T;
    using value_type = std::remove_cv_t<T>;
    using pointer = T *;
    using reference = std::add_lvalue_reference_t<T>;
    using difference_type = std::ptrdiff_t;
    using iterator_category = std::random_access_iterator_tag;
    template <class U> using rebind = offset_ptr<U>;

    offset_ptr() noexcept = default;
    offset_ptr(std::nullptr_t) noexcept {}
    offset_ptr(const offset_ptr &other) noexcept : offset_ptr(other.get()) {}
    template <class U, class = std::enable_if_t<std::is_convertible_v<U *, T *>>>
    offset_ptr(U *target) noexcept : distance_(distance_to(target)) {}
    template <class U, std::enable_if_t<std::is_convertible_v<U *, T *>, int> = 0>
    offset_ptr(const offset_ptr<U> &other) noexcept : offset_ptr(other.get()) {}
    // Where static_cast from U * would be needed: from void, from a base.
    template <class U, std::enable_if_t<!std::is_convertible_v<U *, T *>, int> = 0,
              class = decltype(static_cast<T *>(std::declval<U *>()))>
    explicit offset_ptr(const offset_ptr<U> &other) noexcept : offset_ptr(static_cast<T *>(other.get())) {}

    offset_ptr &operator=(const offset_ptr &other) noexcept {
        distance_ = distance_to(other.get());
        return *this;
    }

    T *get() const noexcept {
        return distance_ == 1 ? nullptr : reinterpret_cast<T *>(here() + distance_);
    }
    explicit operator bool() const noexcept { return distance_ != 1; }
    T *operator->() const noexcept { return get(); }
    reference operator*() const noexcept { return *get(); }
    reference operator[](difference_type i) const noexcept { return get()[i]; }

    offset_ptr &operator+=(difference_type n) noexcept { return *this = get() + n; }
    offset_ptr &operator-=(difference_type n) noexcept { return *this = get() - n; }
    offset_ptr &operator++() noexcept { return *this += 1; }
    offset_ptr &operator--() noexcept { return *this -= 1; }
    offset_ptr operator++(int) noexcept {
        T *old = get();
        ++*this;
        return old;
    }
    offset_ptr operator--(int) noexcept {
        T *old = get();
        --*this;
        return old;
    }
    friend offset_ptr operator+(const offset_ptr &p, difference_type n) noexcept { return p.get() + n; }
    friend offset_ptr operator+(difference_type n, const offset_ptr &p) noexcept { return p.get() + n; }
    friend offset_ptr operator-(const offset_ptr &p, difference_type n) noexcept { return p.get() - n; }
    friend difference_type operator-(const offset_ptr &a, const offset_ptr &b) noexcept { return a.get() - b.get(); }

    friend bool operator==(const offset_ptr &a, const offset_ptr &b) noexcept { return a.get() == b.get(); }
    friend bool operator!=(const offset_ptr &a, const offset_ptr &b) noexcept { return a.get() != b.get(); }
    friend bool operator<(const offset_ptr &a, const offset_ptr &b) noexcept {
        return std::less<>()(a.get(), b.get());
    }
    friend bool operator>(const offset_ptr &a, const offset_ptr &b) noexcept { return b < a; }
    friend bool operator<=(const offset_ptr &a, const offset_ptr &b) noexcept { return !(b < a); }
    friend bool operator>=(const offset_ptr &a, const offset_ptr &b) noexcept { return !(a < b); }

    // std::pointer_traits asks for this.
    static offset_ptr pointer_to(std::conditional_t<std::is_void_v<T>, offset_ptr, T> &target) noexcept {
        return offset_ptr(std::addressof(target));
    }
    // Boost's containers ask for these; their own ways lead over *null.
    template <class U> static offset_ptr static_cast_from(const offset_ptr<U> &p) noexcept {
        return offset_ptr(static_cast<T *>(p.get()));
    }
    template <class U> static offset_ptr const_cast_from(const offset_ptr<U> &p) noexcept {
        return offset_ptr(const_cast<T *>(p.get()));
    }

  private:
    std::uintptr_t here() const noexcept { return reinterpret_cast<std::uintptr_t>(this); }
    std::uintptr_t distance_to(T *target) const noexcept {
        return target == nullptr ? 1 : reinterpret_cast<std::uintptr_t>(target) - here();
    }

    std::uintptr_t distance_ = 1;
};

template <class T, class U> offset_ptr<T> static_pointer_cast(const offset_ptr<U> &p) noexcept {
    return static_cast<T *>(p.get());
}
template <class T, class U> offset_ptr<T> const_pointer_cast(const offset_ptr<U> &p) noexcept {
    return const_cast<T *>(p.get());
}
template <class T, class U> offset_ptr<T> reinterpret_pointer_cast(const offset_ptr<U> &p) noexcept {
    return reinterpret_cast<T *>(p.get());
}

// ---- unique_ptr ----

// Destroys an object and frees its block, in whichever of this process's pools it lies. Holds
// nothing, so a unique_ptr is one offset_ptr and may lie in the pool too.
template <class T> struct deleter {
    using pointer = offset_ptr<T>;
    void operator()(pointer object) const noexcept {
        if (object) {
            object->~T();
            detail::deallocate(object.get());
        }
    }
};

// Arrays remember their length.
template <class T> struct deleter<T[]> {
    using pointer = offset_ptr<T>;
    std::size_t count = 0;
    void operator()(pointer first) const noexcept {
        if (first) {
            std::destroy_n(first.get(), count);
            detail::deallocate(first.get());
        }
    }
};

template <class T> using unique_ptr = std::unique_ptr<T, deleter<T>>;

// ---- pool ----

// What mempool_init may be asked for; the fields are those of mempool_options_t.
struct options : mempool_options_t {
    options() noexcept : mempool_options_t(MEMPOOL_OPTIONS_INIT) {}
};

// One handle to the pool in a buffer of yours, detached at the end of its scope. The buffer must
// stay mapped until then. A const pool is one that is not closed: all else it does.
class pool {
  public:
    pool() noexcept = default;
    pool(pool &&other) noexcept
        : handle_(std::exchange(other.handle_, nullptr)), entry_(std::exchange(other.entry_, nullptr)),
          known_(std::exchange(other.known_, {})) {}
    pool &operator=(pool &&other) noexcept {
        pool old(std::move(*this));
        handle_ = std::exchange(other.handle_, nullptr);
        entry_ = std::exchange(other.entry_, nullptr);
        known_ = std::exchange(other.known_, {});
        return *this;
    }
    ~pool() {
        std::error_code ignored;
        close(ignored);
    }

    // mempool_init: formats the buffer, whatever it holds.
    static pool init(void *buffer, std::size_t len, const options &wanted, std::error_code &code) noexcept {
        mempool_t *handle = nullptr;
        code = detail::code_of(mempool_init(buffer, len, &wanted, &handle));
        return code ? pool() : adopt(handle, buffer, len, wanted.start, code);
    }
    static pool init(void *buffer, std::size_t len, const options &wanted = {}) {
        std::error_code code;
        pool made = init(buffer, len, wanted, code);
        detail::check(code, "mempool::pool::init");
        return made;
    }

    // mempool_attach: a pool that is there. `start` is the option it was made with.
    static pool attach(void *buffer, std::size_t len, std::size_t start, std::error_code &code) noexcept {
        mempool_t *handle = nullptr;
        options where;
        where.start = start;
        code = detail::code_of(mempool_attach(buffer, len, &where, &handle));
        return code ? pool() : adopt(handle, buffer, len, start, code);
    }
    static pool attach(void *buffer, std::size_t len, std::size_t start = 0) {
        std::error_code code;
        pool there = attach(buffer, len, start, code);
        detail::check(code, "mempool::pool::attach");
        return there;
    }

    // mempool_open: of many who come at once to zero-filled memory exactly one makes the pool.
    // `created` may be nullptr.
    static pool open(void *buffer, std::size_t len, const options &wanted, bool *created,
                     std::error_code &code) noexcept {
        mempool_t *handle = nullptr;
        bool made = false;
        code = detail::code_of(mempool_open(buffer, len, &wanted, &handle, &made));
        if (created != nullptr) {
            *created = made;
        }
        return code ? pool() : adopt(handle, buffer, len, wanted.start, code);
    }
    static pool open(void *buffer, std::size_t len, const options &wanted = {}, bool *created = nullptr) {
        std::error_code code;
        pool there = open(buffer, len, wanted, created, code);
        detail::check(code, "mempool::pool::open");
        return there;
    }

    // Takes over a handle that C made: it is detached with the pool, or at once if this fails.
    static pool adopt(mempool_t *handle, void *buffer, std::size_t len, std::size_t start,
                      std::error_code &code) noexcept {
        pool mine;
        mine.handle_ = handle;
        char *first = static_cast<char *>(buffer) + start;
        std::uint64_t end = 0;
        code = detail::code_of(mempool_peek(first, len - start, &end));
        if (code) {
            return pool();
        }
        mempool_stats_t stats = MEMPOOL_STATS_INIT;
        bool is_sound = mempool_stats(handle, &stats) == MEMPOOL_OK;
        mine.known_.begin = reinterpret_cast<std::uintptr_t>(first);
        mine.known_.end = reinterpret_cast<std::uintptr_t>(buffer) + static_cast<std::uintptr_t>(end);
        mine.known_.handle = handle;
        // The least that there is, if it cannot tell; by address no more than a page, however large the granule.
        mine.known_.align = is_sound ? std::min(static_cast<std::size_t>(stats.align), std::size_t{4096}) : 8;
        mine.entry_ = detail::attached.add(mine.known_);
        if (mine.entry_ == nullptr) {
            code = make_error_code(errc::out_of_memory);
            return pool();
        }
        return mine;
    }

    // mempool_detach. Of an empty pool nothing, which is no error.
    void close(std::error_code &code) noexcept {
        code.clear();
        if (entry_ != nullptr) {
            detail::attached.remove(std::exchange(entry_, nullptr));
        }
        if (handle_ != nullptr) {
            code = detail::code_of(mempool_detach(std::exchange(handle_, nullptr)));
        }
        known_ = {};
    }
    void close() {
        std::error_code code;
        close(code);
        detail::check(code, "mempool::pool::close");
    }

    explicit operator bool() const noexcept { return handle_ != nullptr; }
    // For the functions of mempool.h, all of which may be used beside these.
    mempool_t *handle() const noexcept { return handle_; }
    // The pool's first byte in this process, the buffer's but for the option `start`.
    void *begin() const noexcept { return reinterpret_cast<void *>(known_.begin); }
    std::size_t size() const noexcept { return known_.end - known_.begin; }
    // What every block's address is a multiple of.
    std::size_t align() const noexcept { return known_.align; }
    bool contains(const void *pointer) const noexcept {
        return reinterpret_cast<std::uintptr_t>(pointer) - known_.begin < size();
    }

    // Bytes. A size of 0 is as good as 1.
    void *allocate(std::size_t size, std::size_t alignment, std::error_code &code) const noexcept {
        void *block = detail::allocate(handle_, known_.align, size, alignment);
        code = block == nullptr ? detail::last_error() : std::error_code();
        return block;
    }
    void *allocate(std::size_t size, std::size_t alignment = alignof(std::max_align_t)) const {
        std::error_code code;
        void *block = allocate(size, alignment, code);
        if (code) {
            detail::raise_no_memory(code);
        }
        return block;
    }
    void deallocate(void *block, std::error_code &code) const noexcept {
        code = detail::code_of(mempool_free(handle_, block));
    }
    void deallocate(void *block) const {
        std::error_code code;
        deallocate(block, code);
        detail::check(code, "mempool::pool::deallocate");
    }

    // An object in a block of its own. What its constructor throws comes through, the block freed.
    template <class T, class... Args> T *try_make(std::error_code &code, Args &&...args) const {
        static_assert(!std::is_array_v<T>, "std::array, or make_unique<T[]>");
        void *block = allocate(sizeof(T), alignof(T), code);
        if (code) {
            return nullptr;
        }
        detail::block_guard guard(handle_, block);
        T *object = ::new (block) T(std::forward<Args>(args)...);
        guard.keep();
        return object;
    }
    template <class T, class... Args> T *make(Args &&...args) const {
        std::error_code code;
        T *object = try_make<T>(code, std::forward<Args>(args)...);
        if (code) {
            detail::raise_no_memory(code);
        }
        return object;
    }

    // The end of an object of try_make or make; nullptr is nothing. A pointer that is no live block
    // of this pool is refused, and its destructor not called.
    template <class T> void destroy(T *object, std::error_code &code) const {
        code.clear();
        if (object == nullptr) {
            return;
        }
        void *block = const_cast<void *>(static_cast<const volatile void *>(object));
        if (mempool_usable_size(handle_, block) < sizeof(T)) {
            deallocate_bad(block, code);
            return;
        }
        object->~T();
        deallocate(block, code);
    }
    template <class T> void destroy(T *object) const {
        std::error_code code;
        destroy(object, code);
        detail::check(code, "mempool::pool::destroy");
    }

    // The same, owned: make_unique<T>(args...), or make_unique<T[]>(n) of n objects, each T().
    template <class T, class... Args>
    std::enable_if_t<!std::is_array_v<T>, unique_ptr<T>> make_unique(Args &&...args) const {
        return unique_ptr<T>(make<T>(std::forward<Args>(args)...));
    }
    template <class T> std::enable_if_t<std::is_array_v<T>, unique_ptr<T>> make_unique(std::size_t count) const {
        using element = std::remove_extent_t<T>;
        static_assert(std::is_same_v<T, element[]>, "an array of a length that is given at run time: T[]");
        if (count > PTRDIFF_MAX / sizeof(element)) {
            detail::raise_no_memory(make_error_code(errc::out_of_memory));
        }
        void *block = allocate(count * sizeof(element), alignof(element));
        detail::block_guard guard(handle_, block);
        element *first = static_cast<element *>(block);
        std::uninitialized_value_construct_n(first, count);
        guard.keep();
        return unique_ptr<T>(offset_ptr<element>(first), deleter<T>{count});
    }

    // ---- Named objects, which every process finds ----
    //
    // A name is given to a finished object as one event, so that find never sees one that is being
    // made, and nobody ever waits for a constructor:
    //
    // - Who dies in the constructor of construct or find_or_construct leaves no name, and the next one
    //   makes the object. What the dead one had allocated stays so, unfound, like any block of a dead
    //   process: mempool_reap frees it in a pool with MEMPOOL_OWNER_TAGS. The same goes for who dies
    //   in destroy once the name is gone.
    // - When the constructor throws its block is freed, no name is given, and the exception comes through.
    // - When several make an object of one name at once, each may run a constructor, but one object
    //   gets the name. The others are destroyed again before any other process could have seen them:
    //   find_or_construct returns the one that has it, construct says errc::exists.
    // - Of several who destroy a name at once one does. That nobody uses the object any more is theirs
    //   to agree on; a name that was given to another object meanwhile stays.
    //
    // A named object ends by destroy<T>(name). destroy(object) would call the destructor, and then be
    // refused with errc::busy, as freeing is to all of a block's holders until it has no name.
    // Names are 1 to 255 bytes. A block too short for a T, or aligned for less, is errc::incompatible.

    template <class T, class... Args> T *try_construct(std::error_code &code, const char *name, Args &&...args) const {
        T *taken = find<T>(name, code);
        if (taken != nullptr || code == errc::incompatible) {
            code = make_error_code(errc::exists);
        }
        return code ? nullptr : make_named<T>(code, name, std::forward<Args>(args)...);
    }
    template <class T, class... Args> T *construct(const char *name, Args &&...args) const {
        std::error_code code;
        T *object = try_construct<T>(code, name, std::forward<Args>(args)...);
        check_named(code, name);
        return object;
    }

    // nullptr if nothing has this name, which is no error.
    template <class T> T *find(const char *name, std::error_code &code) const noexcept {
        for (int looks = 1;; looks++) {
            void *block = mempool_find(handle_, name);
            code = block == nullptr ? detail::last_error() : std::error_code();
            if (code == errc::not_found) {
                code.clear();
            }
            T *object = as<T>(block, code);
            // What does not look like a T may have been one when it was found, and the name be
            // another's by now; but not again and again.
            if (code != errc::incompatible || looks == 100) {
                return object;
            }
        }
    }
    template <class T> T *find(const char *name) const {
        std::error_code code;
        T *object = find<T>(name, code);
        check_named(code, name);
        return object;
    }

    template <class T, class... Args>
    T *try_find_or_construct(std::error_code &code, const char *name, Args &&...args) const {
        for (;;) {
            T *object = find<T>(name, code);
            if (object != nullptr || code) {
                return object;
            }
            // Not forwarded: it may be needed again, when who was first has destroyed his by then.
            object = make_named<T>(code, name, args...);
            if (code != errc::exists) {
                return object;
            }
        }
    }
    template <class T, class... Args> T *find_or_construct(const char *name, Args &&...args) const {
        std::error_code code;
        T *object = try_find_or_construct<T>(code, name, args...);
        check_named(code, name);
        return object;
    }

    // Whether there was one.
    template <class T> bool destroy(const char *name, std::error_code &code) const {
        T *object = find<T>(name, code);
        if (object == nullptr) {
            return false;
        }
        code = detail::code_of(mempool_unbind_from(handle_, name, object));
        if (code == errc::not_found || code == errc::not_allocated) {
            code.clear(); // somebody else did
            return false;
        }
        if (!code) {
            destroy(object, code);
        }
        return !code;
    }
    template <class T> bool destroy(const char *name) const {
        std::error_code code;
        bool was_there = destroy<T>(name, code);
        check_named(code, name);
        return was_there;
    }

    // One object that needs no name. nullptr: none.
    template <class T> void set_root(T *object, std::error_code &code) const noexcept {
        code = detail::code_of(mempool_set_root(handle_, object));
    }
    template <class T> void set_root(T *object) const {
        std::error_code code;
        set_root(object, code);
        detail::check(code, "mempool::pool::set_root");
    }
    template <class T> T *root(std::error_code &code) const noexcept {
        int before = std::exchange(errno, 0);
        void *block = mempool_root(handle_);
        code = block == nullptr && errno != 0 ? detail::last_error() : std::error_code();
        errno = before;
        return as<T>(block, code);
    }
    template <class T> T *root() const {
        std::error_code code;
        T *object = root<T>(code);
        detail::check(code, "mempool::pool::root");
        return object;
    }

    // A pointer for others: the same offset in every process. 0 <-> nullptr, and what lies outside.
    std::uint64_t offset(const void *pointer) const noexcept { return mempool_offset(handle_, pointer); }
    template <class T = void> T *pointer(std::uint64_t offset) const noexcept {
        return static_cast<T *>(mempool_pointer(handle_, offset));
    }

    mempool_stats_t stats(std::error_code &code) const noexcept {
        mempool_stats_t stats = MEMPOOL_STATS_INIT;
        code = detail::code_of(mempool_stats(handle_, &stats));
        return stats;
    }
    mempool_stats_t stats() const {
        std::error_code code;
        mempool_stats_t figures = stats(code);
        detail::check(code, "mempool::pool::stats");
        return figures;
    }

    // Verifies all of the pool; an error says that it is damaged, and where.
    void check(std::error_code &code) const noexcept { code = detail::code_of(mempool_check(handle_)); }
    void check() const {
        std::error_code code;
        check(code);
        detail::check(code, "mempool::pool::check");
    }

  private:
    // The arguments may be used twice: for the object, and for another in its stead.
    template <class T, class... Args> T *make_named(std::error_code &code, const char *name, Args &&...args) const {
        T *object = try_make<T>(code, std::forward<Args>(args)...);
        if (object == nullptr) {
            return nullptr;
        }
        void *block = const_cast<std::remove_cv_t<T> *>(object);
        code = detail::code_of(mempool_bind(handle_, name, block));
        if (!code) {
            return object;
        }
        std::error_code ignored;
        destroy(object, ignored);
        return nullptr;
    }

    template <class T> T *as(void *block, std::error_code &code) const noexcept {
        bool is_good = block == nullptr || (mempool_usable_size(handle_, block) >= sizeof(T) &&
                                            reinterpret_cast<std::uintptr_t>(block) % alignof(T) == 0);
        if (!is_good) {
            code = make_error_code(errc::incompatible);
        }
        return is_good ? static_cast<T *>(block) : nullptr;
    }

    static void check_named(const std::error_code &code, const char *name) {
        if (code == errc::out_of_memory) {
            detail::raise_no_memory(code);
        }
        detail::check(code, name == nullptr ? "a name" : name);
    }

    // Lets the pool say what is wrong with a pointer, and count it. That it should be a block by
    // now is somebody else's new one, too short for what was to be destroyed: it stays.
    void deallocate_bad(void *block, std::error_code &code) const noexcept {
        if (mempool_usable_size(handle_, block) == 0) {
            deallocate(block, code);
        } else {
            code = make_error_code(errc::not_allocated);
        }
    }

    mempool_t *handle_ = nullptr;
    detail::entry *entry_ = nullptr;
    detail::found known_;
};

// ---- allocator ----

// For containers that lie in the pool and are used from every process that has attached it, at
// whatever address: it holds an offset_ptr to the pool's first byte and asks this process's
// registry for the handle. In a process that has not attached the pool, allocate throws
// mempool::bad_alloc with not_a_pool, and deallocate leaves the block and tells on_bad_free.
//
// A container can use it if it keeps the pointers that the allocator gives it: std::vector does,
// and all of Boost.Container; libstdc++ has plain pointers in its strings and nodes and
// refuses to compile. Give a container in the pool the allocator of this pool, by the mapping that the
// container is reached through: what lies between two mappings is another distance in other processes.
// A container stays in its pool: allocators never propagate, and two of
// different pools are not equal, so that assignment between pools moves the elements one by one.
template <class T> class allocator {
  public:
    using value_type = T;
    using pointer = offset_ptr<T>;
    using const_pointer = offset_ptr<const T>;
    using void_pointer = offset_ptr<void>;
    using const_void_pointer = offset_ptr<const void>;
    using size_type = std::size_t;
    using difference_type = std::ptrdiff_t;
    using propagate_on_container_copy_assignment = std::false_type;
    using propagate_on_container_move_assignment = std::false_type;
    using propagate_on_container_swap = std::false_type;
    using is_always_equal = std::false_type;
    template <class U> struct rebind {
        using other = allocator<U>;
    };

    allocator(const mempool::pool &where) noexcept : begin_(static_cast<const char *>(where.begin())) {}
    template <class U> allocator(const allocator<U> &other) noexcept : begin_(other.begin()) {}

    pointer allocate(size_type count) const {
        const detail::found *where = detail::find(begin_.get());
        if (where == nullptr) {
            detail::raise_no_memory(make_error_code(errc::not_a_pool));
        }
        if (count > max_size()) {
            detail::raise_no_memory(make_error_code(errc::out_of_memory));
        }
        void *block = detail::allocate(where->handle, where->align, count * sizeof(T), alignof(T));
        if (block == nullptr) {
            detail::raise_no_memory(detail::last_error());
        }
        return pointer(static_cast<T *>(block));
    }

    void deallocate(const pointer &block, size_type) const noexcept { detail::deallocate(block.get()); }

    size_type max_size() const noexcept { return static_cast<size_type>(PTRDIFF_MAX) / sizeof(T); }

    // The pool's first byte, in this process.
    const char *begin() const noexcept { return begin_.get(); }
    // This process's handle to the pool, or nullptr: then it has not attached it.
    mempool_t *handle() const noexcept {
        const detail::found *where = detail::find(begin_.get());
        return where == nullptr ? nullptr : where->handle;
    }

    template <class U> friend bool operator==(const allocator &a, const allocator<U> &b) noexcept {
        return a.begin() == b.begin();
    }
    template <class U> friend bool operator!=(const allocator &a, const allocator<U> &b) noexcept {
        return a.begin() != b.begin();
    }

  private:
    offset_ptr<const char> begin_;
};

// ---- memory_resource ----

// For std::pmr. The pool must live longer.
class memory_resource : public std::pmr::memory_resource {
  public:
    explicit memory_resource(const mempool::pool &where) noexcept
        : handle_(where.handle()), begin_(where.begin()), align_(where.align()) {}

    mempool_t *handle() const noexcept { return handle_; }

  protected:
    void *do_allocate(std::size_t size, std::size_t alignment) override {
        void *block = detail::allocate(handle_, align_, size, alignment);
        if (block == nullptr) {
            detail::raise_no_memory(detail::last_error());
        }
        return block;
    }
    void do_deallocate(void *block, std::size_t, std::size_t) override { detail::free_or_tell(handle_, block); }
    bool do_is_equal(const std::pmr::memory_resource &other) const noexcept override {
#ifdef __cpp_rtti
        auto *same = dynamic_cast<const memory_resource *>(&other);
        return same != nullptr && same->begin_ == begin_;
#else
        return this == &other;
#endif
    }

  private:
    mempool_t *handle_;
    void *begin_;
    std::size_t align_;
};

// ---- mapped_pool ----

// Where the bytes of a mapped_pool are: a shared memory object (shm_open), which ends with the
// machine, or a file.
class place {
  public:
    static place shm(std::string name) {
        return place(name.empty() || name[0] != '/' ? "/" + std::move(name) : std::move(name), true);
    }
    static place file(std::string path) { return place(std::move(path), false); }

    const std::string &name() const noexcept { return name_; }

    int open(int flags, mode_t mode) const noexcept {
        int descriptor;
        do {
            descriptor = is_shm_ ? ::shm_open(name_.c_str(), flags | O_CLOEXEC, mode)
                                 : ::open(name_.c_str(), flags | O_CLOEXEC, mode);
        } while (descriptor < 0 && errno == EINTR);
        return descriptor;
    }
    int unlink() const noexcept { return is_shm_ ? ::shm_unlink(name_.c_str()) : ::unlink(name_.c_str()); }

  private:
    place(std::string name, bool is_shm) : name_(std::move(name)), is_shm_(is_shm) {}

    std::string name_;
    bool is_shm_;
};

namespace detail {

// An open file, locked or not. flock's lock ends with the process, however that ends; but it is the
// open file's, which a mapping keeps open, so it is given back by name.
class open_file {
  public:
    explicit open_file(int descriptor) noexcept : descriptor_(descriptor) {}
    open_file(const open_file &) = delete;
    open_file &operator=(const open_file &) = delete;
    ~open_file() {
        if (descriptor_ >= 0) {
            if (is_locked_) {
                ::flock(descriptor_, LOCK_UN);
            }
            ::close(descriptor_);
        }
    }

    int descriptor() const noexcept { return descriptor_; }

    std::error_code lock() noexcept {
        while (::flock(descriptor_, LOCK_EX) != 0) {
            if (errno != EINTR) {
                return system_error();
            }
        }
        is_locked_ = true;
        return {};
    }

    std::error_code stat(struct ::stat &out) const noexcept {
        return ::fstat(descriptor_, &out) == 0 ? std::error_code() : system_error();
    }

    // Whether this is still what the name names.
    bool is_at(const place &where, std::error_code &code) const noexcept {
        code.clear();
        open_file there(where.open(O_RDWR, 0));
        struct ::stat mine {}, named {};
        if (there.descriptor() < 0) {
            code = errno == ENOENT ? std::error_code() : system_error();
            return false;
        }
        code = stat(mine);
        code = code ? code : there.stat(named);
        return !code && mine.st_dev == named.st_dev && mine.st_ino == named.st_ino;
    }

    // Memory behind every byte, so that none raises SIGBUS when it is first used.
    std::error_code reserve(off_t size, bool is_in_use) noexcept {
        int error;
        do {
            error = ::fallocate(descriptor_, 0, 0, size) == 0 ? 0 : errno;
        } while (error == EINTR);
        if (error == EOPNOTSUPP) {
            // The C library would write zeros where it read some, which others may have changed by then.
            error = is_in_use ? 0 : ::posix_fallocate(descriptor_, 0, size);
        }
        return {error, std::system_category()};
    }

    std::error_code resize(off_t size) noexcept {
        while (::ftruncate(descriptor_, size) != 0) {
            if (errno != EINTR) {
                return system_error();
            }
        }
        return {};
    }

    // Up to `count` bytes from an offset on; how many there were.
    std::size_t read(std::size_t offset, unsigned char *out, std::size_t count) const noexcept {
        ssize_t got;
        do {
            got = ::pread(descriptor_, out, count, static_cast<off_t>(offset));
        } while (got < 0 && errno == EINTR);
        return got < 0 ? 0 : static_cast<std::size_t>(got);
    }

    bool is_zero(std::size_t offset, std::size_t end) const noexcept {
        unsigned char bytes[4096];
        while (offset < end) {
            std::size_t left = end - offset;
            std::size_t got = read(offset, bytes, left < sizeof bytes ? left : sizeof bytes);
            if (got == 0 || std::any_of(bytes, bytes + got, [](unsigned char byte) { return byte != 0; })) {
                return false;
            }
            offset += got;
        }
        return true;
    }

  private:
    int descriptor_;
    bool is_locked_ = false;
};

class mapping {
  public:
    mapping() noexcept = default;
    mapping(mapping &&other) noexcept
        : bytes(std::exchange(other.bytes, nullptr)), len(std::exchange(other.len, 0)) {}
    mapping &operator=(mapping &&other) noexcept {
        mapping old(std::move(*this));
        bytes = std::exchange(other.bytes, nullptr);
        len = std::exchange(other.len, 0);
        return *this;
    }
    ~mapping() {
        if (bytes != nullptr) {
            ::munmap(bytes, len);
        }
    }

    std::error_code map(int descriptor, std::size_t wanted) noexcept {
        void *got = ::mmap(nullptr, wanted, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
        if (got == MAP_FAILED) {
            return system_error();
        }
        bytes = got;
        len = wanted;
        return {};
    }

    void *bytes = nullptr;
    std::size_t len = 0;
};

} // namespace detail

// A pool in shared memory or a file, mapped for as long as this lives: *mapped and mapped-> are the
// pool. What comes first is agreed upon by itself, whoever races and whoever is killed:
//
// - Who makes a pool holds the file's lock (flock) meanwhile, which the kernel takes from the dead.
//   It gives the file its size, then memory for all of it (fallocate: no SIGBUS later), then formats.
// - Who comes to a finished pool needs no lock. Who comes to less waits for the lock, and then goes
//   on from what it finds: an empty file, one of zeros and a half formatted pool are a dead maker's.
//   A file with other content is refused as not_a_pool, and left as it is.
// - An existing pool keeps its size, whatever was asked for.
// - A file that was removed and made anew meanwhile is noticed: all end up in one.
// - remove takes the name away; who has the pool mapped keeps it.
// - A maker that fails, for want of memory say, leaves no name behind, unless it was there before.
//
// Nobody may truncate the file afterwards: that raises SIGBUS, which no library survives. A process
// stopped while it makes the pool is waited for; if it is killed while it has a child that another of its threads
// forked in these very moments, so is the child, who has the open file too.
class mapped_pool {
  public:
    mapped_pool() noexcept = default;
    mapped_pool(mapped_pool &&) noexcept = default;
    // What it had goes first: the handle, then its mapping.
    mapped_pool &operator=(mapped_pool &&other) noexcept {
        pool_ = std::move(other.pool_);
        mapping_ = std::move(other.mapping_);
        created_ = other.created_;
        return *this;
    }

    // A new pool of `size` bytes; errc::exists if there is one, or any other file that is not empty.
    static mapped_pool create(const place &where, std::size_t size, const options &wanted, mode_t mode,
                              std::error_code &code) {
        return get(where, wish::made, size, wanted, mode, code);
    }
    static mapped_pool create(const place &where, std::size_t size, const options &wanted = {}, mode_t mode = 0600) {
        std::error_code code;
        mapped_pool made = create(where, size, wanted, mode, code);
        detail::check(code, where.name().c_str());
        return made;
    }

    // A pool that is there, or is just being made: that is waited for. `start` is the option it was made with.
    static mapped_pool open(const place &where, std::size_t start, std::error_code &code) {
        options at;
        at.start = start;
        return get(where, wish::found, 0, at, 0, code);
    }
    static mapped_pool open(const place &where, std::size_t start = 0) {
        std::error_code code;
        mapped_pool there = open(where, start, code);
        detail::check(code, where.name().c_str());
        return there;
    }

    // Either; created() says which.
    static mapped_pool open_or_create(const place &where, std::size_t size, const options &wanted, mode_t mode,
                                      std::error_code &code) {
        return get(where, wish::any, size, wanted, mode, code);
    }
    static mapped_pool open_or_create(const place &where, std::size_t size, const options &wanted = {},
                                      mode_t mode = 0600) {
        std::error_code code;
        mapped_pool there = open_or_create(where, size, wanted, mode, code);
        detail::check(code, where.name().c_str());
        return there;
    }

    // Whether there was such a name to take away.
    static bool remove(const place &where) noexcept { return where.unlink() == 0; }

    pool &operator*() noexcept { return pool_; }
    const pool &operator*() const noexcept { return pool_; }
    pool *operator->() noexcept { return &pool_; }
    const pool *operator->() const noexcept { return &pool_; }
    explicit operator bool() const noexcept { return static_cast<bool>(pool_); }

    bool created() const noexcept { return created_; }
    void *data() const noexcept { return mapping_.bytes; }
    std::size_t size() const noexcept { return mapping_.len; }

  private:
    // What is asked for: any, a new one, or one that is there.
    enum class wish { any, made, found };

    static mapped_pool get(const place &where, wish how, std::size_t size, const options &wanted, mode_t mode,
                           std::error_code &code) {
        for (;;) {
            mapped_pool mine;
            bool is_new = false;
            detail::open_file file(open_file(where, how, mode, is_new));
            if (file.descriptor() < 0) {
                code = detail::system_error();
                return mine;
            }
            bool is_there = mine.attach(file, wanted.start, code);
            if (!is_there && !code) {
                code = file.lock();
                if (!code && !file.is_at(where, code) && !code) {
                    continue; // removed meanwhile
                }
                is_there = !code && mine.attach(file, wanted.start, code);
            }
            if (!is_there && !code) {
                mine.make(file, how, size, wanted, code);
                std::error_code ignored;
                if (code && is_new && file.is_at(where, ignored)) {
                    where.unlink();
                }
            } else if (how == wish::made && (!code || code.category() == category())) {
                code = make_error_code(errc::exists);
            }
            return code ? mapped_pool() : std::move(mine);
        }
    }

    // An empty file is no pool yet, so to have made it is no condition for anything.
    static int open_file(const place &where, wish how, mode_t mode, bool &is_new) noexcept {
        if (how == wish::found) {
            return where.open(O_RDWR, 0);
        }
        int descriptor = where.open(O_RDWR | O_CREAT | O_EXCL, mode);
        is_new = descriptor >= 0;
        if (is_new || errno != EEXIST) {
            return descriptor;
        }
        // Without O_CREAT first, which fs.protected_regular refuses for another user's file.
        descriptor = where.open(O_RDWR, 0);
        return descriptor >= 0 || errno != ENOENT ? descriptor : where.open(O_RDWR | O_CREAT, mode);
    }

    // Maps a finished pool: true. There is none, or none yet: false. It looks by reading: who makes
    // one may still make the file shorter, which a mapping would not survive.
    bool attach(detail::open_file &file, std::size_t start, std::error_code &code) noexcept {
        unsigned char prefix[1024]; // of which mempool_peek needs the first few hundred
        std::uint64_t len = 0;
        code.clear();
        std::size_t got = file.read(start, prefix, sizeof prefix);
        mempool_status_t status = got == 0 ? MEMPOOL_ERR_NOT_A_POOL : mempool_peek(prefix, got, &len);
        if (status == MEMPOOL_ERR_NOT_A_POOL) {
            return false;
        }
        struct ::stat now {};
        code = status == MEMPOOL_OK ? file.stat(now) : detail::code_of(status);
        if (!code && static_cast<std::int64_t>(now.st_blocks) * 512 < now.st_size) {
            code = file.reserve(now.st_size, true); // a copy, say, whose zeros are holes
        }
        if (!code) {
            code = mapping_.map(file.descriptor(), static_cast<std::size_t>(now.st_size));
        }
        if (!code) {
            pool_ = pool::attach(mapping_.bytes, mapping_.len, start, code);
        }
        return !code;
    }

    // Under the lock, where no finished pool is.
    void make(detail::open_file &file, wish how, std::size_t size, const options &wanted,
              std::error_code &code) noexcept {
        struct ::stat now {};
        code = how == wish::found ? make_error_code(errc::not_a_pool) : file.stat(now);
        if (code) {
            return;
        }
        auto have = static_cast<std::size_t>(now.st_size);
        std::size_t header = std::min(have, wanted.start);
        bool is_begun = !file.is_zero(header, std::min(have, header + 256));
        if (!is_begun) {
            // Empty, or all zero: a dead maker had come as far, perhaps with another size in mind.
            code = file.is_zero(0, have) ? file.resize(static_cast<off_t>(size)) : make_error_code(errc::not_a_pool);
            code = code ? code : file.reserve(static_cast<off_t>(size), false);
        }
        if (!code) {
            code = mapping_.map(file.descriptor(), is_begun ? have : size);
        }
        if (!code) {
            // Whether what is begun is a dead maker's pool, mempool_open knows.
            pool_ = pool::open(mapping_.bytes, mapping_.len, wanted, &created_, code);
        }
        if (how == wish::made && code == errc::not_a_pool) {
            code = make_error_code(errc::exists);
        }
    }

    detail::mapping mapping_; // outlives the handle
    pool pool_;
    bool created_ = false;
};

} // namespace mempool

// By address, as == compares.
template <class T> struct std::hash<mempool::offset_ptr<T>> {
    std::size_t operator()(const mempool::offset_ptr<T> &p) const noexcept { return std::hash<T *>()(p.get()); }
};

#undef MEMPOOL_ONE_PER_PROCESS

#endif // MEMPOOL_HPP
