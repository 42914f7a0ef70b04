// What a C++ program outside this repository does with mempool.hpp: a vector that lies in shared memory and grows in
// two processes. Exits with 0 and prints the version, or dies by an assertion.
#undef NDEBUG
#include <cassert>
#include <cstdio>
#include <string>
#include <vector>

#include <mempool.hpp>

#include <sys/wait.h>
#include <unistd.h>

using Numbers = std::vector<int, mempool::allocator<int>>;

int main()
{
    const auto place = mempool::place::shm("mempool-consumer-" + std::to_string(getpid()));
    auto mapped = mempool::mapped_pool::create(place, 1 << 20);
    auto *numbers = mapped->construct<Numbers>("numbers", *mapped);
    numbers->push_back(1);

    const pid_t child = fork();
    if (child == 0) {
        auto other = mempool::mapped_pool::open(place);     // at another address, for the first one is still there
        auto *same = other->find<Numbers>("numbers");
        assert(same != nullptr && same != numbers && same->front() == 1);
        for (int i = 2; i <= 1000; i++)
            same->push_back(i);
        _exit(0);
    }
    int status = 0;
    assert(waitpid(child, &status, 0) == child && status == 0);
    assert(mempool::mapped_pool::remove(place));
    assert(numbers->size() == 1000 && numbers->back() == 1000 && mapped->contains(numbers->data()));
    assert(mapped->destroy<Numbers>("numbers") && mapped->stats().used_count == 0);

    mempool::memory_resource resource(*mapped);
    assert(std::pmr::string(100, 'x', &resource).size() == 100);
    std::error_code code;
    mapped->check(code);
    assert(!code);
    std::puts(mempool_version());
}
