/* The block that runs: what block.cpp, which lets its threads run, and waiting.cpp, which lets them wait, share. */
#ifndef CUDA_ON_CPU_RUNNING_BLOCK_H
#define CUDA_ON_CPU_RUNNING_BLOCK_H

#include <algorithm>
#include <cstddef>
#include <vector>

#include "block.h"
#include "fibers.h"

namespace cuda_on_cpu
{

struct RunningBlock
{
    Fibers fibers;
    std::vector<Thread> threads;
    Thread* running = nullptr; // nullptr while no thread runs
    unsigned num_at_barrier = 0;
    unsigned num_returned = 0;
    char refusal[1024] = ""; // "" as long as nothing is wrong

    unsigned number_of(Thread const& thread) const
    {
        return static_cast<unsigned>(&thread - threads.data());
    }

    /* The number of the first thread of a thread's warp. */
    unsigned first_of_warp(Thread const& thread) const
    {
        return number_of(thread) / warpSize * warpSize;
    }

    /* How many threads a warp has: fewer in a block's last one. */
    unsigned size_of_warp(unsigned first) const
    {
        return std::min<unsigned>(warpSize, static_cast<unsigned>(threads.size()) - first);
    }
};

extern RunningBlock block;

/* For a block in which no thread can run: says who waits where, and for whom in vain. */
void refuse_divergence();

} // namespace cuda_on_cpu

#endif
