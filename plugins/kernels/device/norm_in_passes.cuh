/*
 * residual_norm for rows of any width and alignment: a block reads its row once for each thing that it must know of it,
 * the second and third time from L2. For rows that no block's registers hold, and one element at a time for rows that
 * are no vectors of 16 bytes.
 */
#ifndef TRTLLM_EXT_DEVICE_NORM_IN_PASSES_CUH
#define TRTLLM_EXT_DEVICE_NORM_IN_PASSES_CUH

#include "dependent_launch.cuh"
#include "norm_row.cuh"

namespace trtllm_ext
{

// Vectors of a matrix that a thread has on their way at once: with x and residual 64 KB an SM, of 1024 threads.
constexpr int VECTORS_A_BATCH = 2;

/* One row of the operation's matrices. */
template <typename T, int WIDTH>
class RowInMemory
{
public:
    using Vector = Elements<T, WIDTH>;

    __device__ RowInMemory(NormArguments<T> const& arguments, int64_t row)
        : mArguments(arguments)
        , mRow(row)
    {
    }

    /* Calls visit(column, sum) for this thread's vectors of x + bias + residual. */
    template <typename Visit>
    __device__ void sums(Visit const& visit) const
    {
        NormArguments<T> const& arguments = mArguments;
        each(
            [&](int64_t column) {
                Vector const x = load<WIDTH>(at(arguments.x, column));
                Vector const residual = arguments.has_residual ? load<WIDTH>(at(arguments.residual, column)) : Vector{};
                Vector const bias = arguments.has_bias ? load<WIDTH>(arguments.bias + column * WIDTH) : Vector{};
                return summed<WIDTH>(arguments, x, bias, residual);
            },
            visit);
    }

    /* The same after sums() has been through the row and stored the sum, which may have been in x's memory. */
    template <typename Visit>
    __device__ void sums_again(Visit const& visit) const
    {
        if (mArguments.has_sum)
        {
            each([&](int64_t column) { return load<WIDTH>(at(mArguments.sum, column)); }, visit);
        }
        else
        {
            sums(visit);
        }
    }

    /* The same with the normed elements: visit(column, values). */
    template <typename Visit>
    __device__ void normed(Statistics const& statistics, Visit const& visit) const
    {
        NormArguments<T> const& arguments = mArguments;
        sums_again([&](int64_t column, Vector const& sum) {
            Vector const weight = arguments.has_weight ? load<WIDTH>(arguments.weight + column * WIDTH) : Vector{};
            Vector const norm_bias
                = arguments.has_norm_bias ? load<WIDTH>(arguments.norm_bias + column * WIDTH) : Vector{};
            float values[WIDTH];
            normed_values(arguments, sum, weight, norm_bias, statistics, values);
            visit(column, values);
        });
    }

    /* The first element of a vector of this row. */
    template <typename Any>
    __device__ Any* at(Matrix<Any> const& matrix, int64_t column) const
    {
        return matrix.row + mRow * matrix.stride + column * WIDTH;
    }

private:
    template <typename Read, typename Visit>
    __device__ void each(Read const& read, Visit const& visit) const
    {
        int64_t const num_vectors = mArguments.width / WIDTH;
        for (int64_t first = threadIdx.x; first < num_vectors; first += VECTORS_A_BATCH * blockDim.x)
        {
            Vector vectors[VECTORS_A_BATCH];
#pragma unroll
            for (int v = 0; v < VECTORS_A_BATCH; ++v)
            {
                if (first + v * blockDim.x < num_vectors)
                {
                    vectors[v] = read(first + v * blockDim.x);
                }
            }
#pragma unroll
            for (int v = 0; v < VECTORS_A_BATCH; ++v)
            {
                if (first + v * blockDim.x < num_vectors)
                {
                    visit(first + v * blockDim.x, vectors[v]);
                }
            }
        }
    }

    NormArguments<T> const& mArguments;
    int64_t const mRow;
};

/* Stores the sum, and tells what the row is normed with. */
template <typename T, int WIDTH>
__device__ inline Statistics statistics_of(
    NormArguments<T> const& arguments, RowInMemory<T, WIDTH> const& row, RowReducer<false>& reduce)
{
    bool const centred = arguments.norm == TRTLLM_EXT_LAYER_NORM;
    float total = 0.0f;
    row.sums([&](int64_t column, Elements<T, WIDTH> const& sum) {
        if (arguments.has_sum)
        {
            store(row.at(arguments.sum, column), sum);
        }
        total += centred ? total_of<WIDTH>(sum) : squares_of<WIDTH>(sum, 0.0f);
    });
    total = reduce(total, Add{});
    if (!centred)
    {
        return {0.0f, inverse_scale_of(arguments, total)};
    }
    float const mean = total * arguments.inverse_width;
    float squares = 0.0f;
    row.sums_again([&](int64_t, Elements<T, WIDTH> const& sum) { squares += squares_of<WIDTH>(sum, mean); });
    return {mean, inverse_scale_of(arguments, reduce(squares, Add{}))};
}

// For compute capability 10.0 the compiler moves loads so early that two blocks' registers do not do without memory.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
#define TRTLLM_EXT_BLOCKS_IN_PASSES 1
#else
#define TRTLLM_EXT_BLOCKS_IN_PASSES 2
#endif

template <typename T, int WIDTH>
__global__ void __launch_bounds__(LARGEST_ROW_BLOCK, TRTLLM_EXT_BLOCKS_IN_PASSES)
    norm_in_passes_kernel(NormArguments<T> const arguments)
{
    __shared__ RowReducer<false>::Partials partials;
    RowReducer<false> reduce(partials);
    wait_for_previous_kernel();
    let_next_kernel_start();
    RowInMemory<T, WIDTH> const row(arguments, blockIdx.x);
    Statistics const statistics = statistics_of(arguments, row, reduce);
    if (arguments.norm == TRTLLM_EXT_NO_NORM)
    {
        return;
    }
    float scale = 0.0f;
    if (arguments.quantized_type != TRTLLM_EXT_NO_TYPE)
    {
        float largest = 0.0f;
        row.normed(statistics,
            [&](int64_t, float const(&values)[WIDTH]) { largest = largest_of(values, largest); });
        scale = scale_of(arguments, reduce(largest, MaxOrNan{}));
        if (threadIdx.x == 0)
        {
            arguments.scales[blockIdx.x] = scale;
        }
    }
    row.normed(statistics, [&](int64_t column, float const(&values)[WIDTH]) {
        if (arguments.has_normed)
        {
            Elements<T, WIDTH> normed;
            from_floats(values, normed);
            store(row.at(arguments.normed, column), normed);
        }
        if (arguments.quantized_type != TRTLLM_EXT_NO_TYPE)
        {
            store(row.at(arguments.quantized, column), quantized_values(arguments, values, scale));
        }
    });
}

} // namespace trtllm_ext

#endif
