/*
 * A block of threads on one processor: who runs, who waits for whom, and what is wrong when nobody can go on.
 *
 * A thread runs until it has to wait for others: at a barrier of its block, or at an operation that the lanes of a warp
 * do together. The one that comes last does the operation for all of them.
 */
#ifndef CUDA_ON_CPU_BLOCK_H
#define CUDA_ON_CPU_BLOCK_H

#include <vector_types.h>

#include <cstddef>
#include <cstdint>

/* CUDA's own names, set for whichever thread runs. */
constexpr int warpSize = 32;
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;

namespace cuda_on_cpu
{

/* An operation that threads do together, as it is written in the source: they must have come to the same one. */
struct Place
{
    char const* operation = nullptr;
    char const* file = nullptr;
    int line = 0;
};

enum class State
{
    can_run,
    at_barrier,
    at_warp_operation,
    returned
};

struct Thread
{
    State state = State::can_run;
    Place place;
    unsigned mask = 0;      // the lanes of a warp operation
    uint64_t value = 0;     // what the thread brings to the operation
    unsigned argument = 0;  // what it asks of it: the lane to read
    uint64_t result = 0;
    uint3 index{};
};

/* Does a warp's operation: reads value and argument of the lanes of a mask, writes their results. */
using Finish = void (*)(Thread* lanes, unsigned mask);

/* Waits for all threads of the block; returns for how many of them `predicate` is not 0. */
int barrier(Place const& place, int predicate);

/* Waits for the lanes of `mask`, the caller's among them; returns what `finish` made for the caller. */
uint64_t warp_operation(Place const& place, unsigned mask, uint64_t value, unsigned argument, Finish finish);

unsigned lane_of_this_thread();

/* Ends the launch with an error; the text is printf's. Inside a thread it does not return. */
[[gnu::format(printf, 1, 2)]] void refuse(char const* format, ...);

/* The launch's dynamic shared memory. */
void* dynamic_shared_memory();

/*
 * Runs a kernel over a grid; returns nullptr, or what went wrong, valid until the calling thread's next launch.
 * One launch runs at a time.
 */
char const* run_grid(
    dim3 grid_size, dim3 block_size, size_t dynamic_shared_bytes, void (*kernel)(void*), void* arguments);

} // namespace cuda_on_cpu

#endif
