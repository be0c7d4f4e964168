/* One value of all threads that share a row: warp by warp with shuffles, then through shared memory. */
#ifndef TRTLLM_EXT_DEVICE_ROW_REDUCE_CUH
#define TRTLLM_EXT_DEVICE_ROW_REDUCE_CUH

#include <cuda_runtime.h>

#include "../row_plan.h"

namespace trtllm_ext
{

constexpr int WARP_SIZE = 32;

struct Add
{
    __device__ float operator()(float a, float b) const
    {
        return a + b;
    }
};

/* The larger one; NaN if either is. */
struct MaxOrNan
{
    __device__ float operator()(float a, float b) const
    {
        return a > b || a != a ? a : b;
    }
};

/*
 * Reductions over blockDim.x threads: whole warps, or with PART_OF_WARP perhaps a power of two below 32. Every thread
 * of the block must call it, and each thread gets the result of its row, taken in an order that depends on blockDim.x
 * alone.
 *
 * One barrier a reduction: two sets of partial results take turns, so that a warp writes a set only after the barrier
 * of the other one, which all warps reach when they have read the first.
 */
template <bool PART_OF_WARP>
class RowReducer
{
public:
    /* Shared memory of the block. */
    using Partials = float[2][LARGEST_ROW_BLOCK / WARP_SIZE];

    __device__ explicit RowReducer(Partials& partials)
        : mPartials(partials)
    {
    }

    template <typename Combine>
    __device__ float operator()(float value, Combine const& combine)
    {
        int const threads = static_cast<int>(blockDim.x);
        if (PART_OF_WARP && threads < WARP_SIZE)
        {
            for (int offset = threads / 2; offset > 0; offset /= 2)
            {
                value = combine(value, __shfl_xor_sync(0xffffffffu, value, offset));
            }
            return value;
        }
#pragma unroll
        for (int offset = WARP_SIZE / 2; offset > 0; offset /= 2)
        {
            value = combine(value, __shfl_xor_sync(0xffffffffu, value, offset));
        }
        return threads > WARP_SIZE ? across_warps(value, combine) : value;
    }

private:
    template <typename Combine>
    __device__ float across_warps(float value, Combine const& combine)
    {
        float* const partials = mPartials[mTurn];
        mTurn ^= 1;
        int const warps_per_row = static_cast<int>(blockDim.x) / WARP_SIZE;
        int const first = static_cast<int>(threadIdx.y) * warps_per_row;
        if (threadIdx.x % WARP_SIZE == 0)
        {
            partials[first + static_cast<int>(threadIdx.x) / WARP_SIZE] = value;
        }
        __syncthreads();
        float result = partials[first];
#pragma unroll 4
        for (int warp = 1; warp < warps_per_row; ++warp)
        {
            result = combine(result, partials[first + warp]);
        }
        return result;
    }

    Partials& mPartials;
    int mTurn = 0;
};

} // namespace trtllm_ext

#endif
