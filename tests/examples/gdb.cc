// What test_gdb.py has gdb look at: a pool that begins inside a buffer, one live block in it, and one bad free.
#include <mempool.hpp>

#include <cstring>

alignas(64) static unsigned char buffer[100000];

extern "C" void stop() { asm volatile(""); } // gdb stops here and goes up

int main() {
    mempool_t *pool;
    mempool_status_t status = mempool_init(buffer + 8, sizeof buffer - 8, nullptr, &pool);
    char *text = static_cast<char *>(mempool_malloc(pool, 100));
    std::strcpy(text, "hello");
    mempool_status_t wrong = mempool_free(pool, text + 16);
    mempool::offset_ptr<char> to_text = text, to_nothing;
    stop();
    return status == MEMPOOL_OK && wrong != MEMPOOL_OK && to_text && !to_nothing ? 0 : 1;
}
