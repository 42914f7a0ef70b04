#include <algorithm>
#include <iostream>
#include <map>
#include <memory>
#include <regex>
#include <string>
#include <thread>
#include <vector>

int main()
{
    std::map<std::string, std::unique_ptr<int>> numbers;
    for (int i = 0; i < 50000; i++)
        numbers[std::to_string(i * 7919 % 50021)] = std::make_unique<int>(i);
    std::regex pattern("[0-9]+7");
    auto matches = std::count_if(numbers.begin(), numbers.end(), [&](auto &pair) { return std::regex_match(pair.first, pattern); });
    std::vector<std::thread> threads;
    std::vector<size_t> lengths(4);
    for (size_t i = 0; i < 4; i++)
        threads.emplace_back([&, i] {
            std::string text;
            for (auto &pair : numbers)
                text += pair.first + ' ';
            lengths[i] = text.size();
        });
    for (auto &thread : threads)
        thread.join();
    std::cout << numbers.size() << ' ' << matches << ' ' << lengths[0] + lengths[3] << '\n';
}
