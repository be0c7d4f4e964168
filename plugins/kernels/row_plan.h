/* How many threads share a row that is held in registers: a pure function of the row's width. */
#ifndef TRTLLM_EXT_ROW_PLAN_H
#define TRTLLM_EXT_ROW_PLAN_H

#include <cstdint>

namespace trtllm_ext
{

/*
 * A block is threads_per_row x rows_per_block threads, a multiple of a warp; a thread holds vectors_per_thread vectors
 * of 16 bytes, threads_per_row apart.
 */
struct RowPlan
{
    int vectors_per_thread; // 1, 2 or 4; 0 when the row does not fit and is read again for each pass
    int threads_per_row;    // 8, 16, or a multiple of 32
    int rows_per_block;
};

constexpr int LARGEST_ROW_BLOCK = 512;
constexpr int SMALLEST_ROW_BLOCK = 128;
constexpr int64_t LARGEST_ROW_IN_VECTORS = 4 * LARGEST_ROW_BLOCK;

/*
 * The plan for rows of so many vectors. It does not depend on the number of rows: a token's result is the same, bit for
 * bit, in any batch.
 *
 * Few vectors a thread mean more warps to hide latency behind, which counts with few rows; many mean more loads in
 * flight and fewer partial sums. Two a thread for 4096 16-bit elements hold 64 KB in flight on an SM (1024 threads
 * with x and residual), twice what the memory needs. Blocks of 128 threads and more let 16 of them fill an SM.
 */
inline RowPlan plan_rows(int64_t num_vectors) noexcept
{
    if (num_vectors > LARGEST_ROW_IN_VECTORS)
    {
        return {0, LARGEST_ROW_BLOCK, 1};
    }
    int const vectors = static_cast<int>(num_vectors);
    if (vectors <= 16)
    {
        int const threads = vectors <= 8 ? 8 : 16;
        return {1, threads, SMALLEST_ROW_BLOCK / threads};
    }
    int const vectors_per_thread = vectors <= 32 ? 1 : vectors <= 512 ? 2 : 4;
    int const vectors_per_warp = 32 * vectors_per_thread;
    int const threads = (vectors + vectors_per_warp - 1) / vectors_per_warp * 32;
    return {vectors_per_thread, threads, threads < SMALLEST_ROW_BLOCK ? SMALLEST_ROW_BLOCK / threads : 1};
}

} // namespace trtllm_ext

#endif
