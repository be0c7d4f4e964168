/* operator new and delete of the whole process, counted: the plugin library's, too. */
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace player
{

std::atomic<int64_t> num_allocations{0};

}

void* operator new(size_t size)
{
    void* const memory = std::malloc(size == 0 ? 1 : size);
    if (memory == nullptr)
    {
        throw std::bad_alloc();
    }
    ++player::num_allocations;
    return memory;
}

void operator delete(void* memory) noexcept
{
    player::num_allocations -= memory != nullptr ? 1 : 0;
    std::free(memory);
}

void operator delete(void* memory, size_t) noexcept
{
    operator delete(memory);
}
