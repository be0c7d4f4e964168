/* residual_norm's arithmetic on vectors of elements: the same for rows in registers and rows that are read again. */
#ifndef TRTLLM_EXT_DEVICE_NORM_ROW_CUH
#define TRTLLM_EXT_DEVICE_NORM_ROW_CUH

#include <cuda_runtime.h>

#include "../trtllm_ext_kernels.h"
#include "quantize.cuh"
#include "row_reduce.cuh"
#include "types.cuh"

namespace trtllm_ext
{

/* A matrix of the operation. row: the first one's; NULL for none. stride: elements from a row to the next. */
template <typename T>
struct Matrix
{
    T* row;
    int64_t stride;
};

/* trtllm_ext_residual_norm_args with types. has_...: 1 where it is there, which is cheaper to ask than a pointer. */
template <typename T>
struct NormArguments
{
    trtllm_ext_norm norm;
    trtllm_ext_rounding rounding;
    trtllm_ext_type quantized_type;
    float eps;
    float weight_offset;
    float inverse_width; // 1 / width
    int32_t has_residual;
    int32_t has_bias;
    int32_t has_weight;
    int32_t has_norm_bias;
    int32_t has_sum;
    int32_t has_normed;
    int64_t num_rows;
    int64_t width;
    Matrix<T const> x;
    Matrix<T const> residual;
    Matrix<T> sum;
    Matrix<T> normed;
    Matrix<uint8_t> quantized;
    float* scales;
    T const* bias;
    T const* weight;
    T const* norm_bias;
};

/* What all elements of a row are normed with. */
struct Statistics
{
    float mean;          // 0 for RMSNorm
    float inverse_scale; // 1 / sqrt(variance + eps)
};

/*
 * x + bias + residual in this order, rounded once. What is not there is not added: + 0 would turn -0 into 0.
 */
template <int WIDTH, typename T, typename Vector>
__device__ inline Vector summed(
    NormArguments<T> const& arguments, Vector const& x, Vector const& bias, Vector const& residual)
{
    float values[WIDTH];
    to_floats(x, values);
    if (arguments.has_bias)
    {
        add_to(values, bias);
    }
    if (arguments.has_residual)
    {
        add_to(values, residual);
    }
    Vector sum;
    from_floats(values, sum);
    return sum;
}

template <int WIDTH, typename Vector>
__device__ inline float total_of(Vector const& sum)
{
    float values[WIDTH];
    to_floats(sum, values);
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < WIDTH; ++i)
    {
        total += values[i];
    }
    return total;
}

template <int WIDTH, typename Vector>
__device__ inline float squares_of(Vector const& sum, float mean)
{
    float values[WIDTH];
    to_floats(sum, values);
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < WIDTH; ++i)
    {
        float const deviation = values[i] - mean;
        total += deviation * deviation;
    }
    return total;
}

template <typename T>
__device__ inline float inverse_scale_of(NormArguments<T> const& arguments, float squares)
{
    return rsqrtf(squares * arguments.inverse_width + arguments.eps);
}

/* The normed elements before their last rounding. */
template <int WIDTH, typename T, typename Vector>
__device__ inline void normed_values(NormArguments<T> const& arguments, Vector const& sum, Vector const& weight,
    Vector const& norm_bias, Statistics const& statistics, float (&values)[WIDTH])
{
    to_floats(sum, values);
#pragma unroll
    for (int i = 0; i < WIDTH; ++i)
    {
        values[i] = (values[i] - statistics.mean) * statistics.inverse_scale;
    }
    if (arguments.rounding == TRTLLM_EXT_BEFORE_WEIGHT)
    {
        Vector rounded;
        from_floats(values, rounded);
        to_floats(rounded, values);
    }
    if (arguments.has_weight)
    {
        float factors[WIDTH];
        to_floats(weight, factors);
#pragma unroll
        for (int i = 0; i < WIDTH; ++i)
        {
            values[i] *= factors[i] + arguments.weight_offset;
        }
    }
    if (arguments.has_norm_bias)
    {
        add_to(values, norm_bias);
    }
}

template <int WIDTH>
__device__ inline float largest_of(float const (&values)[WIDTH], float largest)
{
#pragma unroll
    for (int i = 0; i < WIDTH; ++i)
    {
        largest = MaxOrNan{}(fabsf(values[i]), largest);
    }
    return largest;
}

/*
 * The scale of a row whose largest |normed| is this. A NaN in the row makes it NaN, so that whoever multiplies by the
 * scale sees it, also where int8 elements cannot say it.
 */
template <typename T>
__device__ inline float scale_of(NormArguments<T> const& arguments, float largest)
{
    return largest / (arguments.quantized_type == TRTLLM_EXT_INT8 ? LARGEST_INT8 : LARGEST_FLOAT8_E4M3);
}

/* round(value / scale), saturated; 0 where the scale is 0, as all elements then are, or too small for their scale. */
template <typename T, int WIDTH>
__device__ inline Vector<uint8_t, WIDTH> quantized_values(
    NormArguments<T> const& arguments, float const (&values)[WIDTH], float scale)
{
    Vector<uint8_t, WIDTH> quantized;
#pragma unroll
    for (int i = 0; i < WIDTH; ++i)
    {
        float const value = scale == 0.0f ? 0.0f : values[i] / scale;
        quantized.elements[i]
            = arguments.quantized_type == TRTLLM_EXT_INT8 ? quantize_int8(value) : quantize_float8(value);
    }
    return quantized;
}

} // namespace trtllm_ext

#endif
