// Boost.Interprocess as C functions: a heap in the caller's buffer with the algorithm and the
// process-shared mutex that managed_shared_memory has (managed_external_buffer by itself has no
// lock). The object is private and points into the buffer, so a fork's child goes on using it.

#include <boost/interprocess/managed_external_buffer.hpp>
#include <cstring>
#include <new>

namespace bi = boost::interprocess;
using Heap = bi::basic_managed_external_buffer<
    char, bi::rbtree_best_fit<bi::mutex_family, bi::offset_ptr<void>>, bi::iset_index>;

extern "C" {

void *boost_open(void *buffer, std::size_t len)
{
    return new Heap(bi::create_only, buffer, len);
}

void *boost_malloc(void *heap, std::size_t size)
{
    return static_cast<Heap *>(heap)->allocate(size, std::nothrow);
}

void boost_free(void *heap, void *block)
{
    static_cast<Heap *>(heap)->deallocate(block);
}

void *boost_realloc(void *heap, void *block, std::size_t size)
{
    Heap &self = *static_cast<Heap *>(heap);
    std::size_t old = self.get_segment_manager()->size(block);
    if (old >= size)
        return block;
    Heap::size_type received = size;
    char *reuse = static_cast<char *>(block);
    if (self.allocation_command<char>(bi::expand_fwd | bi::nothrow_allocation, size, received, reuse))
        return block;
    void *moved = boost_malloc(heap, size);
    if (moved) {
        std::memcpy(moved, block, old);
        boost_free(heap, block);
    }
    return moved;
}

// 0: everything was freed, and the heap is sound.
int boost_check(void *heap)
{
    Heap &self = *static_cast<Heap *>(heap);
    return self.check_sanity() && self.all_memory_deallocated() ? 0 : -1;
}

}
