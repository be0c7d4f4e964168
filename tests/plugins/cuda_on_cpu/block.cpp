/* Lets the threads of a block run, and the blocks of a grid, one after another. */
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>

#include "running_block.h"

// The ends of all static shared memory: shared_memory.ld.
extern "C" volatile uint64_t cuda_on_cpu_shared_begin[] __attribute__((visibility("hidden")));
extern "C" volatile uint64_t cuda_on_cpu_shared_end[] __attribute__((visibility("hidden")));

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace cuda_on_cpu
{

RunningBlock block;

namespace
{

std::mutex one_launch;
std::unique_ptr<uint64_t[]> dynamic_shared; // words, so that it is aligned for every type
size_t num_dynamic_words = 0;

struct KernelCall
{
    void (*kernel)(void*);
    void* arguments;
};

// Threads and blocks run from first to last, or the other way round: a race that one order hides shows in the other.
bool backward()
{
    char const* order = std::getenv("CUDA_ON_CPU_ORDER");
    return order != nullptr && std::strcmp(order, "backward") == 0;
}

// Every variable of shared memory begins as NaN (as float, half or bfloat16) and as no sensible integer.
// Not memset: AddressSanitizer keeps fences between the variables and would object.
__attribute__((no_sanitize_address)) void fill_shared_memory()
{
    for (volatile uint64_t* at = cuda_on_cpu_shared_begin; at < cuda_on_cpu_shared_end; ++at)
    {
        *at = ~uint64_t{0};
    }
    std::fill_n(dynamic_shared.get(), num_dynamic_words, ~uint64_t{0});
}

void resume(Thread& thread)
{
    block.running = &thread;
    threadIdx = thread.index;
    block.fibers.resume(block.number_of(thread));
    block.running = nullptr;
}

// Runs the threads of a warp until none of them can; returns whether any could.
bool run_warp(unsigned first, bool from_last)
{
    unsigned const count = block.size_of_warp(first);
    bool any = false;
    for (bool moved = true; moved && block.refusal[0] == '\0';)
    {
        moved = false;
        for (unsigned i = 0; i < count && block.refusal[0] == '\0'; ++i)
        {
            Thread& thread = block.threads[first + (from_last ? count - 1 - i : i)];
            if (thread.state == State::can_run)
            {
                resume(thread);
                moved = any = true;
            }
        }
    }
    return any;
}

void run_thread(void* kernel_call)
{
    auto const* call = static_cast<KernelCall const*>(kernel_call);
    call->kernel(call->arguments);
    block.running->state = State::returned;
    ++block.num_returned;
}

void run_block(KernelCall& call, bool from_last)
{
    auto const num_threads = static_cast<unsigned>(block.threads.size());
    unsigned const num_warps = (num_threads + warpSize - 1) / warpSize;
    block.num_at_barrier = block.num_returned = 0;
    for (Thread& thread : block.threads)
    {
        thread.state = State::can_run;
    }
    fill_shared_memory();
    block.fibers.prepare(num_threads, run_thread, &call);
    while (block.num_returned < num_threads && block.refusal[0] == '\0')
    {
        bool any = false;
        for (unsigned i = 0; i < num_warps; ++i)
        {
            any = run_warp((from_last ? num_warps - 1 - i : i) * warpSize, from_last) || any;
        }
        if (!any && block.refusal[0] == '\0')
        {
            refuse_divergence();
        }
    }
}

uint3 index_of(size_t number, dim3 const& size)
{
    return {static_cast<unsigned>(number % size.x), static_cast<unsigned>(number / size.x % size.y),
        static_cast<unsigned>(number / size.x / size.y)};
}

size_t count_of(dim3 const& size)
{
    return size_t{size.x} * size.y * size.z;
}

} // namespace

void* dynamic_shared_memory()
{
    return dynamic_shared.get();
}

char const* run_grid(
    dim3 grid_size, dim3 block_size, size_t dynamic_shared_bytes, void (*kernel)(void*), void* arguments)
{
    std::lock_guard<std::mutex> const lock(one_launch);
    thread_local std::string said;
    KernelCall call{kernel, arguments};
    bool const from_last = backward();
    gridDim = grid_size;
    blockDim = block_size;
    block.refusal[0] = '\0';
    block.threads.assign(count_of(block_size), Thread{});
    for (Thread& thread : block.threads)
    {
        thread.index = index_of(block.number_of(thread), block_size);
    }
    num_dynamic_words = (dynamic_shared_bytes + sizeof(uint64_t) - 1) / sizeof(uint64_t);
    // Of its size to the word, so that AddressSanitizer sees its end.
    dynamic_shared = std::make_unique<uint64_t[]>(num_dynamic_words);
    size_t const num_blocks = count_of(grid_size);
    for (size_t i = 0; i < num_blocks && block.refusal[0] == '\0'; ++i)
    {
        blockIdx = index_of(from_last ? num_blocks - 1 - i : i, grid_size);
        run_block(call, from_last);
    }
    said = block.refusal;
    return said.empty() ? nullptr : said.c_str();
}

} // namespace cuda_on_cpu
