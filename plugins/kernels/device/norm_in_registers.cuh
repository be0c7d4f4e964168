/*
 * residual_norm for rows that fit into the registers of a block: each element is read once and written once an output.
 *
 * A block has its rows and ends; the hardware puts the next one in its place. (Blocks that stayed and took one row after
 * the other, loading ahead, took 1.11 times as long over 16384 rows of 4096 on an H200.) All that a row reads, weight
 * and biases included, is on its way before the first of it is used. The sum is kept rounded, as it is stored: the
 * statistics are of the rounded sum anyway, and 16-bit elements take half the registers of float32.
 */
#ifndef TRTLLM_EXT_DEVICE_NORM_IN_REGISTERS_CUH
#define TRTLLM_EXT_DEVICE_NORM_IN_REGISTERS_CUH

#include "dependent_launch.cuh"
#include "norm_row.cuh"

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
 * A thread's part of a row: VECTORS vectors of WIDTH elements, 32 vectors apart, so that a warp's are neighbours and the
 * distance is known to the compiler. FULL: the block's threads have exactly the vectors of its only row, so that nobody
 * need ask.
 */
template <int VECTORS, int WIDTH, bool FULL>
class PartOfRow
{
public:
    __device__ PartOfRow(int64_t num_rows, int64_t width)
        : row(FULL ? blockIdx.x : static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y)
        , mNumRows(num_rows)
        , mFirst(static_cast<int>(threadIdx.x / WARP_SIZE * WARP_SIZE * VECTORS + threadIdx.x % WARP_SIZE) * WIDTH)
        , mWidth(static_cast<int>(width))
    {
    }

    /* Whether the thread has a row: threads without one only meet the others at the barriers. */
    __device__ bool has_row() const
    {
        return FULL || row < mNumRows;
    }

    /* Whether the row has this thread's vector v. */
    __device__ bool has(int v) const
    {
        return FULL || (row < mNumRows && mFirst + v * (WARP_SIZE * WIDTH) < mWidth);
    }

    /* The first element of vector v in a row that all rows share. */
    template <typename T>
    __device__ T* at(T* shared_row, int v) const
    {
        return shared_row + mFirst + v * (WARP_SIZE * WIDTH);
    }

    /* The same of this thread's row of a matrix. */
    template <typename T>
    __device__ T* at(Matrix<T> const& matrix, int v) const
    {
        return at(matrix.row + row * matrix.stride, v);
    }

    int64_t const row;

private:
    int64_t const mNumRows;
    int const mFirst;
    int const mWidth;
};

/* A thread's vectors of a row, or of what all rows share. */
template <typename T, int VECTORS>
using Vectors = WideVector<T>[VECTORS];

/* Zeros where there are none. */
template <typename T, int VECTORS, typename Source, typename Part>
__device__ inline void load_vectors(bool is_there, Source const& source, Part const& part, Vectors<T, VECTORS>& vectors)
{
#pragma unroll
    for (int v = 0; v < VECTORS; ++v)
    {
        vectors[v] = {};
        if (is_there && part.has(v))
        {
            vectors[v] = load<VECTOR_WIDTH<T>>(part.at(source, v));
        }
    }
}

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

template <typename T, int VECTORS, typename Part>
__device__ inline Statistics statistics_of(NormArguments<T> const& arguments, WideVector<T> (&sum)[VECTORS],
    Part const& part, RowReducer<VECTORS == 1>& reduce)
{
    float mean = 0.0f;
    if (arguments.norm == TRTLLM_EXT_LAYER_NORM)
    {
        float total = 0.0f;
#pragma unroll
        for (int v = 0; v < VECTORS; ++v)
        {
            total += part.has(v) ? total_of<VECTOR_WIDTH<T>>(sum[v]) : 0.0f;
        }
        mean = reduce(total, Add{}) * arguments.inverse_width;
        keep_row_packed(sum);
    }
    float squares = 0.0f;
#pragma unroll
    for (int v = 0; v < VECTORS; ++v)
    {
        squares += part.has(v) ? squares_of<VECTOR_WIDTH<T>>(sum[v], mean) : 0.0f;
    }
    return {mean, inverse_scale_of(arguments, reduce(squares, Add{}))};
}

/* The form that nearly all transformers run: RMSNorm of x + residual with a weight, nothing else. */
template <typename T>
__host__ __device__ inline bool is_usual_form(NormArguments<T> const& arguments)
{
    return arguments.norm == TRTLLM_EXT_RMS_NORM && arguments.quantized_type == TRTLLM_EXT_NO_TYPE
        && arguments.has_residual && !arguments.has_bias && arguments.has_weight && !arguments.has_norm_bias
        && arguments.has_sum && arguments.has_normed;
}

/* USUAL: is_usual_form(given), which then need not be asked again. */
template <typename T, int VECTORS, bool FULL, bool QUANTIZED, bool USUAL>
__global__ void __launch_bounds__(LARGEST_BLOCK<VECTORS>, RESIDENT_THREADS<VECTORS, QUANTIZED> / LARGEST_BLOCK<VECTORS>)
    norm_in_registers_kernel(NormArguments<T> const given)
{
    constexpr int WIDTH = VECTOR_WIDTH<T>;
    NormArguments<T> arguments = given;
    if constexpr (USUAL)
    {
        arguments.norm = TRTLLM_EXT_RMS_NORM;
        arguments.has_residual = arguments.has_weight = arguments.has_sum = arguments.has_normed = 1;
        arguments.has_bias = arguments.has_norm_bias = 0;
    }
    __shared__ typename RowReducer<VECTORS == 1>::Partials partials;
    RowReducer<VECTORS == 1> reduce(partials);
    PartOfRow<VECTORS, WIDTH, FULL> const part(arguments.num_rows, arguments.width);
    Vectors<T, VECTORS> bias, weight, norm_bias, sum, residual;
    load_vectors(arguments.has_bias, arguments.bias, part, bias);
    load_vectors(arguments.has_weight, arguments.weight, part, weight);
    load_vectors(arguments.has_norm_bias, arguments.norm_bias, part, norm_bias);
    wait_for_previous_kernel();
    let_next_kernel_start();
    load_vectors(true, arguments.x, part, sum);
    load_vectors(arguments.has_residual, arguments.residual, part, residual);
#pragma unroll
    for (int v = 0; v < VECTORS; ++v)
    {
        sum[v] = summed<WIDTH>(arguments, sum[v], bias[v], residual[v]);
        if (arguments.has_sum && part.has(v))
        {
            store(part.at(arguments.sum, v), sum[v]);
        }
    }
    if (arguments.norm == TRTLLM_EXT_NO_NORM)
    {
        return;
    }
    Statistics const statistics = statistics_of(arguments, sum, part, reduce);
    // Calls visit(v, values) for this thread's vectors of the row, normed.
    auto const each_normed = [&](auto const& visit) {
        keep_row_packed(sum);
#pragma unroll
        for (int v = 0; v < VECTORS; ++v)
        {
            if (part.has(v))
            {
                float values[WIDTH];
                normed_values(arguments, sum[v], weight[v], norm_bias[v], statistics, values);
                visit(v, values);
            }
        }
    };
    float scale = 0.0f;
    if constexpr (QUANTIZED)
    {
        float largest = 0.0f;
        each_normed([&](int, float const(&values)[WIDTH]) { largest = largest_of(values, largest); });
        scale = scale_of(arguments, reduce(largest, MaxOrNan{}));
        if (part.has_row() && threadIdx.x == 0)
        {
            arguments.scales[part.row] = scale;
        }
    }
    each_normed([&](int v, float const(&values)[WIDTH]) {
        if (arguments.has_normed)
        {
            WideVector<T> normed;
            from_floats(values, normed);
            store(part.at(arguments.normed, v), normed);
        }
        if constexpr (QUANTIZED)
        {
            store(part.at(arguments.quantized, v), quantized_values(arguments, values, scale));
        }
    });
}

} // namespace trtllm_ext

#endif
