/*
 * residual_norm for rows that fit into the registers of a block: each element is read once and written once an output.
 *
 * A block stays and takes one row after the other. While it reduces and writes a row, the loads of its next one are on
 * their way, so that memory is never idle. The sum is kept rounded, as it is stored: the statistics are of the rounded
 * sum anyway, and 16-bit elements take half the registers of float32. Weight and biases wait in shared memory.
 */
#ifndef TRTLLM_EXT_DEVICE_NORM_IN_REGISTERS_CUH
#define TRTLLM_EXT_DEVICE_NORM_IN_REGISTERS_CUH

#include "dependent_launch.cuh"
#include "norm_row.cuh"
#include "shared_memory.cuh"

namespace trtllm_ext
{

/*
 * Threads of a kernel that an SM runs at once, at the least: the compiler keeps registers to 128, 80 and 64 a thread
 * for that, which is enough for all to stay in registers. x and residual on their way: 64 KB an SM, 48 KB when
 * quantized.
 */
template <int VECTORS, bool QUANTIZED>
constexpr int RESIDENT_THREADS = VECTORS == 4 ? 512 : QUANTIZED ? 768 : 1024;

template <int VECTORS>
constexpr int LARGEST_BLOCK = VECTORS == 4 ? LARGEST_ROW_BLOCK : LARGEST_ROW_BLOCK / 2;

/*
 * Which vectors of a row a thread has: VECTORS of them, 32 apart, so that a warp's are neighbours and the distance is
 * known to the compiler. FULL: the block's threads have exactly the vectors of its only row, so that nobody need ask.
 */
template <int VECTORS, bool FULL>
class Columns
{
public:
    __device__ explicit Columns(int num_vectors)
        : first(static_cast<int>(threadIdx.x / WARP_SIZE * WARP_SIZE * VECTORS + threadIdx.x % WARP_SIZE))
        , mNumVectors(num_vectors)
    {
    }

    /* Whether the row has this thread's vector v. */
    __device__ bool has(int v) const
    {
        return FULL || first + v * WARP_SIZE < mNumVectors;
    }

    int const first;

private:
    int const mNumVectors;
};

/* A thread's vectors of one row after the other of a matrix. */
template <typename T, int WIDTH>
class Cursor
{
public:
    __device__ Cursor(Matrix<T> const& matrix, int64_t row, int first_vector, int64_t rows_a_turn)
        : mFirst(matrix.row + row * matrix.stride + static_cast<int64_t>(first_vector) * WIDTH)
        , mStep(matrix.stride * rows_a_turn)
    {
    }

    /* The first element of vector v. */
    __device__ T* operator()(int v) const
    {
        return mFirst + v * (WARP_SIZE * WIDTH);
    }

    __device__ void next_turn()
    {
        mFirst += mStep;
    }

private:
    T* mFirst;
    int64_t mStep;
};

/* A row that all rows share, in shared memory. */
template <typename T, int VECTORS, bool FULL>
class SharedRow
{
public:
    /* Reads the row, if there is one, on behalf of the block; `memory` goes on behind it. */
    __device__ SharedRow(bool is_there, T const* row, Columns<VECTORS, FULL> const& columns, int num_vectors,
        WideVector<T>*& memory)
        : mIsThere(is_there)
        , mMemory(memory + columns.first)
    {
#pragma unroll
        for (int v = 0; v < VECTORS; ++v)
        {
            if (is_there && threadIdx.y == 0 && columns.has(v))
            {
                mOnTheWay[v] = load<VECTOR_WIDTH<T>>(row + (columns.first + v * WARP_SIZE) * VECTOR_WIDTH<T>);
            }
        }
        memory += is_there ? num_vectors : 0;
    }

    /* A barrier must lie between this and get(). */
    __device__ void put(Columns<VECTORS, FULL> const& columns)
    {
#pragma unroll
        for (int v = 0; v < VECTORS; ++v)
        {
            if (mIsThere && threadIdx.y == 0 && columns.has(v))
            {
                mMemory[v * WARP_SIZE] = mOnTheWay[v];
            }
        }
    }

    /* Vector v of this thread, which must be one of the row's; zeros when there is no row. */
    __device__ WideVector<T> get(int v) const
    {
        return mIsThere ? mMemory[v * WARP_SIZE] : WideVector<T>{};
    }

private:
    bool mIsThere;
    WideVector<T>* mMemory;
    WideVector<T> mOnTheWay[VECTORS];
};

/* Between two uses of a row: with four vectors a thread there is no room for it as float32. */
template <typename T, int VECTORS>
__device__ inline void keep_row_packed(WideVector<T> (&row)[VECTORS])
{
#pragma unroll
    for (int v = 0; v < VECTORS && VECTORS == 4; ++v)
    {
        keep_packed(row[v]);
    }
}

template <typename T, int VECTORS, bool FULL>
__device__ inline Statistics statistics_of(NormArguments<T> const& arguments, WideVector<T> (&sum)[VECTORS],
    Columns<VECTORS, FULL> const& columns, RowReducer<VECTORS == 1>& reduce)
{
    float mean = 0.0f;
    if (arguments.norm == TRTLLM_EXT_LAYER_NORM)
    {
        float total = 0.0f;
#pragma unroll
        for (int v = 0; v < VECTORS; ++v)
        {
            total += columns.has(v) ? total_of<VECTOR_WIDTH<T>>(sum[v]) : 0.0f;
        }
        mean = reduce(total, Add{}) * arguments.inverse_width;
        keep_row_packed(sum);
    }
    float squares = 0.0f;
#pragma unroll
    for (int v = 0; v < VECTORS; ++v)
    {
        squares += columns.has(v) ? squares_of<VECTOR_WIDTH<T>>(sum[v], mean) : 0.0f;
    }
    return {mean, inverse_scale_of(arguments, reduce(squares, Add{}))};
}

/* Calls visit(v, values) for this thread's vectors of the row, normed. */
template <typename T, int VECTORS, bool FULL, typename Visit>
__device__ inline void each_normed(NormArguments<T> const& arguments, WideVector<T> const (&sum)[VECTORS],
    SharedRow<T, VECTORS, FULL> const& weight, SharedRow<T, VECTORS, FULL> const& norm_bias,
    Statistics const& statistics, Columns<VECTORS, FULL> const& columns, Visit const& visit)
{
#pragma unroll
    for (int v = 0; v < VECTORS; ++v)
    {
        if (columns.has(v))
        {
            float values[VECTOR_WIDTH<T>];
            normed_values(arguments, sum[v], weight.get(v), norm_bias.get(v), statistics, values);
            visit(v, values);
        }
    }
}

template <typename T, int VECTORS, bool FULL, bool QUANTIZED>
__global__ void __launch_bounds__(LARGEST_BLOCK<VECTORS>, RESIDENT_THREADS<VECTORS, QUANTIZED> / LARGEST_BLOCK<VECTORS>)
    norm_in_registers_kernel(NormArguments<T> arguments)
{
    constexpr int WIDTH = VECTOR_WIDTH<T>;
    __shared__ typename RowReducer<VECTORS == 1>::Partials partials;
    RowReducer<VECTORS == 1> reduce(partials);
    int const num_vectors = static_cast<int>(arguments.width) / WIDTH;
    Columns<VECTORS, FULL> const columns(num_vectors);
    auto* memory = static_cast<WideVector<T>*>(dynamic_shared_memory());
    SharedRow<T, VECTORS, FULL> bias(arguments.has_bias, arguments.bias, columns, num_vectors, memory);
    SharedRow<T, VECTORS, FULL> weight(arguments.has_weight, arguments.weight, columns, num_vectors, memory);
    SharedRow<T, VECTORS, FULL> norm_bias(arguments.has_norm_bias, arguments.norm_bias, columns, num_vectors, memory);

    unsigned const rows_per_block = FULL ? 1 : blockDim.y;
    unsigned const row_in_block = FULL ? 0 : threadIdx.y;
    int64_t const rows_a_turn = static_cast<int64_t>(gridDim.x) * rows_per_block;
    int64_t const row = static_cast<int64_t>(blockIdx.x) * rows_per_block + row_in_block;
    Cursor<T const, WIDTH> x_at(arguments.x, row, columns.first, rows_a_turn);
    Cursor<T const, WIDTH> residual_at(arguments.residual, row, columns.first, rows_a_turn);
    Cursor<T, WIDTH> sum_at(arguments.sum, row, columns.first, rows_a_turn);
    Cursor<T, WIDTH> normed_at(arguments.normed, row, columns.first, rows_a_turn);
    Cursor<uint8_t, WIDTH> quantized_at(arguments.quantized, row, columns.first, rows_a_turn);
    Cursor<float, WIDTH> scale_at({arguments.scales, 1}, row, 0, rows_a_turn);
    WideVector<T> x[VECTORS] = {};
    WideVector<T> residual[VECTORS] = {};
    auto const load_next = [&] {
#pragma unroll
        for (int v = 0; v < VECTORS; ++v)
        {
            if (columns.has(v))
            {
                x[v] = load<WIDTH>(x_at(v));
            }
        }
#pragma unroll
        for (int v = 0; v < VECTORS; ++v)
        {
            if (columns.has(v) && arguments.has_residual)
            {
                residual[v] = load<WIDTH>(residual_at(v));
            }
        }
        x_at.next_turn();
        residual_at.next_turn();
    };
    wait_for_previous_kernel();
    let_next_kernel_start();
    int64_t rows_left = arguments.num_rows - row;
    if (rows_left > 0)
    {
        load_next();
    }
    bias.put(columns);
    weight.put(columns);
    norm_bias.put(columns);
    __syncthreads();
    // All threads of a block make the same turns, those without a row too: they meet at the barriers.
    for (; rows_left + row_in_block > 0; rows_left -= rows_a_turn)
    {
        bool const has_row = FULL || rows_left > 0;
        WideVector<T> sum[VECTORS] = {};
#pragma unroll
        for (int v = 0; v < VECTORS; ++v)
        {
            if (has_row && columns.has(v))
            {
                sum[v] = summed<WIDTH>(arguments, x[v], bias.get(v), residual[v]);
                if (arguments.has_sum)
                {
                    store(sum_at(v), sum[v]);
                }
            }
        }
        sum_at.next_turn();
        if (rows_left > rows_a_turn)
        {
            load_next();
        }
        if (arguments.norm == TRTLLM_EXT_NO_NORM)
        {
            continue;
        }
        Statistics const statistics = statistics_of(arguments, sum, columns, reduce);
        keep_row_packed(sum);
        float scale = 0.0f;
        if constexpr (QUANTIZED)
        {
            float largest = 0.0f;
            if (has_row)
            {
                each_normed(arguments, sum, weight, norm_bias, statistics, columns,
                    [&](int, float const(&values)[WIDTH]) { largest = largest_of(values, largest); });
            }
            scale = scale_of(arguments, reduce(largest, MaxOrNan{}));
            if (has_row && threadIdx.x == 0)
            {
                *scale_at(0) = scale;
            }
            scale_at.next_turn();
            keep_row_packed(sum);
        }
        auto const write = [&](int v, float const(&values)[WIDTH]) {
            if (arguments.has_normed)
            {
                WideVector<T> normed;
                from_floats(values, normed);
                store(normed_at(v), normed);
            }
            if constexpr (QUANTIZED)
            {
                store(quantized_at(v), quantized_values(arguments, values, scale));
            }
        };
        if (has_row)
        {
            each_normed(arguments, sum, weight, norm_bias, statistics, columns, write);
        }
        normed_at.next_turn();
        quantized_at.next_turn();
    }
}

} // namespace trtllm_ext

#endif
