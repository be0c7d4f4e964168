#include "block.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "fibers.h"

// The ends of all static shared memory: shared_memory.ld.
extern "C" char cuda_on_cpu_shared_begin[] __attribute__((visibility("hidden")));
extern "C" char cuda_on_cpu_shared_end[] __attribute__((visibility("hidden")));

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace cuda_on_cpu
{
namespace
{

std::mutex one_launch;
Fibers fibers;
std::vector<Thread> threads;
std::vector<uint64_t> dynamic_shared; // words, so that it is aligned for every type
Thread* running = nullptr;
unsigned num_at_barrier = 0;
unsigned num_returned = 0;
char refusal[1024];

// Threads run from first to last, or the other way round: a race that one order hides shows in the other.
bool backward()
{
    char const* order = std::getenv("CUDA_ON_CPU_ORDER");
    return order != nullptr && std::strcmp(order, "backward") == 0;
}

bool same(Place const& one, Place const& other)
{
    auto const equal = [](char const* a, char const* b) { return a == b || std::strcmp(a, b) == 0; };
    return one.line == other.line && equal(one.file, other.file) && equal(one.operation, other.operation);
}

unsigned number_of(Thread const& thread)
{
    return static_cast<unsigned>(&thread - threads.data());
}

Thread* warp_of(Thread const& thread)
{
    return &threads[number_of(thread) / warpSize * warpSize];
}

char const* file_name(char const* path)
{
    char const* slash = std::strrchr(path, '/');
    return slash == nullptr ? path : slash + 1;
}

std::string told(Place const& place)
{
    return std::string(place.operation) + " (" + file_name(place.file) + ":" + std::to_string(place.line) + ")";
}

std::string hexadecimal(unsigned mask)
{
    char text[16];
    std::snprintf(text, sizeof(text), "%#x", mask);
    return text;
}

std::string told(Thread const& thread)
{
    std::string text = "thread " + std::to_string(number_of(thread));
    if (thread.state == State::returned)
    {
        return text + " has returned";
    }
    text += " waits at " + told(thread.place);
    return thread.state == State::at_warp_operation ? text + " with mask " + hexadecimal(thread.mask) : text;
}

[[noreturn]] void stop_thread()
{
    while (true)
    {
        fibers.yield();
    }
}

void wait_in(State state, Place const& place)
{
    running->state = state;
    running->place = place;
}

void release(Thread& thread, uint64_t result)
{
    thread.state = State::can_run;
    thread.result = result;
}

uint64_t result_when_released(Thread& self)
{
    while (self.state != State::can_run)
    {
        fibers.yield();
    }
    return self.result;
}

bool is_at_same_warp_operation(Thread const& one, Thread const& other)
{
    return one.state == State::at_warp_operation && one.mask == other.mask && same(one.place, other.place);
}

// No thread can run: says who waits where, and one that does not come.
void refuse_divergence()
{
    auto const waiting = std::find_if(threads.begin(), threads.end(),
        [](Thread const& thread) { return thread.state != State::returned; });
    bool const at_barrier = waiting->state == State::at_barrier;
    size_t const first = at_barrier ? 0 : static_cast<size_t>(warp_of(*waiting) - threads.data());
    size_t const last = at_barrier ? threads.size() : std::min(first + warpSize, threads.size());
    for (size_t i = first; i < last; ++i)
    {
        bool const wanted = at_barrier || (waiting->mask >> (i - first) & 1) != 0;
        Thread const& other = threads[i];
        bool const there = at_barrier ? other.state == State::at_barrier : is_at_same_warp_operation(other, *waiting);
        if (wanted && !there)
        {
            return refuse("%s, but %s", told(*waiting).c_str(), told(other).c_str());
        }
    }
    refuse("%s for a lane that the block does not have", told(*waiting).c_str());
}

// Every variable of shared memory begins as NaN (as float, half or bfloat16) and as no sensible integer.
// Not memset: AddressSanitizer keeps fences between the variables and would object.
__attribute__((no_sanitize_address)) void fill_shared_memory()
{
    for (volatile char* at = cuda_on_cpu_shared_begin; at < cuda_on_cpu_shared_end; ++at)
    {
        *at = '\xff';
    }
    std::fill(dynamic_shared.begin(), dynamic_shared.end(), ~uint64_t{0});
}

void resume(Thread& thread)
{
    running = &thread;
    threadIdx = thread.index;
    fibers.resume(number_of(thread));
}

// Runs the threads of a warp until none of them can; returns whether any could.
bool run_warp(unsigned warp, bool from_last)
{
    unsigned const first = warp * warpSize;
    unsigned const count = std::min<unsigned>(warpSize, static_cast<unsigned>(threads.size()) - first);
    bool any = false;
    for (bool moved = true; moved && refusal[0] == '\0';)
    {
        moved = false;
        for (unsigned i = 0; i < count && refusal[0] == '\0'; ++i)
        {
            Thread& thread = threads[first + (from_last ? count - 1 - i : i)];
            if (thread.state == State::can_run)
            {
                resume(thread);
                moved = any = true;
            }
        }
    }
    return any;
}

struct KernelCall
{
    void (*kernel)(void*);
    void* arguments;
};

void run_thread(void* kernel_call)
{
    auto const* call = static_cast<KernelCall const*>(kernel_call);
    call->kernel(call->arguments);
    running->state = State::returned;
    ++num_returned;
}

void run_block(KernelCall& call)
{
    bool const from_last = backward();
    unsigned const num_warps = (static_cast<unsigned>(threads.size()) + warpSize - 1) / warpSize;
    num_at_barrier = num_returned = 0;
    for (Thread& thread : threads)
    {
        thread.state = State::can_run;
    }
    fill_shared_memory();
    fibers.prepare(static_cast<unsigned>(threads.size()), run_thread, &call);
    while (num_returned < threads.size() && refusal[0] == '\0')
    {
        bool any = false;
        for (unsigned i = 0; i < num_warps; ++i)
        {
            any = run_warp(from_last ? num_warps - 1 - i : i, from_last) || any;
        }
        running = nullptr;
        if (!any && refusal[0] == '\0')
        {
            refuse_divergence();
        }
    }
}

void make_threads(dim3 block)
{
    threads.assign(size_t{block.x} * block.y * block.z, Thread{});
    for (unsigned i = 0; i < threads.size(); ++i)
    {
        threads[i].index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
    }
}

} // namespace

void refuse(char const* format, ...)
{
    if (refusal[0] == '\0')
    {
        va_list values;
        va_start(values, format);
        int const length = std::snprintf(refusal, sizeof(refusal), "block (%u, %u, %u): ", blockIdx.x,
            blockIdx.y, blockIdx.z);
        std::vsnprintf(refusal + length, sizeof(refusal) - static_cast<size_t>(length), format, values);
        va_end(values);
    }
    if (running != nullptr)
    {
        stop_thread();
    }
}

int barrier(Place const& place, int predicate)
{
    Thread& self = *running;
    wait_in(State::at_barrier, place);
    self.value = predicate != 0 ? 1 : 0;
    if (++num_at_barrier < threads.size())
    {
        return static_cast<int>(result_when_released(self));
    }
    uint64_t num_true = 0;
    for (Thread const& thread : threads)
    {
        num_true += thread.value;
        if (!same(thread.place, place))
        {
            refuse("%s, but %s", told(thread).c_str(), told(self).c_str());
        }
    }
    num_at_barrier = 0;
    for (Thread& thread : threads)
    {
        release(thread, num_true);
    }
    return static_cast<int>(num_true);
}

uint64_t warp_operation(Place const& place, unsigned mask, uint64_t value, unsigned argument, Finish finish)
{
    Thread& self = *running;
    Thread* const lanes = warp_of(self);
    size_t const num_lanes = std::min<size_t>(warpSize, static_cast<size_t>(threads.data() + threads.size() - lanes));
    wait_in(State::at_warp_operation, place);
    self.mask = mask;
    self.value = value;
    self.argument = argument;
    if ((mask >> lane_of_this_thread() & 1) == 0)
    {
        refuse("%s, which leaves its own lane out", told(self).c_str());
    }
    // Lanes that the block does not have are left to refuse_divergence(). The next lane first: it is the likely one to
    // be missing.
    bool complete = num_lanes == warpSize || mask >> num_lanes == 0;
    for (size_t i = 1; i < num_lanes && complete; ++i)
    {
        size_t const lane = (lane_of_this_thread() + i) % num_lanes;
        complete = (mask >> lane & 1) == 0 || is_at_same_warp_operation(lanes[lane], self);
    }
    if (!complete)
    {
        return result_when_released(self);
    }
    finish(lanes, mask);
    for (unsigned lane = 0; lane < num_lanes; ++lane)
    {
        if ((mask >> lane & 1) != 0)
        {
            lanes[lane].state = State::can_run;
        }
    }
    return self.result;
}

unsigned lane_of_this_thread()
{
    return number_of(*running) % warpSize;
}

void* dynamic_shared_memory()
{
    return dynamic_shared.data();
}

char const* run_grid(dim3 grid, dim3 block, size_t dynamic_shared_bytes, void (*kernel)(void*), void* arguments)
{
    std::lock_guard<std::mutex> const lock(one_launch);
    thread_local std::string said;
    KernelCall call{kernel, arguments};
    gridDim = grid;
    blockDim = block;
    refusal[0] = '\0';
    make_threads(block);
    dynamic_shared.resize((dynamic_shared_bytes + sizeof(uint64_t) - 1) / sizeof(uint64_t));
    for (size_t i = 0; i < size_t{grid.x} * grid.y * grid.z && refusal[0] == '\0'; ++i)
    {
        blockIdx = {static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
            static_cast<unsigned>(i / grid.x / grid.y)};
        run_block(call);
    }
    said = refusal;
    return said.empty() ? nullptr : said.c_str();
}

} // namespace cuda_on_cpu
