/*
 * A std::pmr program with all its containers in a pool of 1 MiB: a hard limit. When it is reached the program gets
 * std::bad_alloc, and goes on.
 *
 *   c++ -std=c++17 -O2 -pthread pmr.cpp $(pkg-config --cflags --libs mempool) -o pmr && ./pmr
 */
#include <iostream>
#include <map>
#include <memory_resource>
#include <mempool.hpp>
#include <string>
#include <vector>

alignas(16) static unsigned char memory[1 << 20];

int main() {
    mempool::pool pool = mempool::pool::init(memory, sizeof memory);
    mempool::memory_resource resource(pool);
    using index = std::pmr::map<std::pmr::string, std::pmr::vector<int>>;

    const auto fill = [&](int count) {
        index words(&resource);
        for (int i = 0; i < count; i++)
            words["a word that is too long to lie in its string: " + std::pmr::string(std::to_string(i))].push_back(i);
        return words.size();
    };
    std::cout << fill(1000) << '\n';
    try {
        std::cout << fill(1000000) << '\n';
    } catch (const std::bad_alloc &error) {
        std::cout << "full: " << error.what() << '\n';
    }
    std::cout << fill(1000) << '\n' << pool.stats().used_count << " blocks left\n";
    pool.check();
}
