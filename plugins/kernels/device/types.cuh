/*
 * The element types in memory, 16 bytes of them at a time, and as float32, in which everything is computed.
 */
#ifndef TRTLLM_EXT_DEVICE_TYPES_CUH
#define TRTLLM_EXT_DEVICE_TYPES_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace trtllm_ext
{

__host__ __device__ inline float to_float(float value)
{
    return value;
}

__host__ __device__ inline float to_float(__half value)
{
    return __half2float(value);
}

__host__ __device__ inline float to_float(__nv_bfloat16 value)
{
    return __bfloat162float(value);
}

/* Rounds to nearest, ties to even; NaN stays NaN, and what is too large becomes infinity. */
template <typename T>
__host__ __device__ T from_float(float value);

template <>
__host__ __device__ inline float from_float<float>(float value)
{
    return value;
}

template <>
__host__ __device__ inline __half from_float<__half>(float value)
{
    return __float2half_rn(value);
}

template <>
__host__ __device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float value)
{
    return __float2bfloat16_rn(value);
}

/* COUNT neighbours, read and written by one instruction: a thread's widest access to memory is 16 bytes. */
template <typename T, int COUNT>
struct alignas(sizeof(T) * COUNT) Vector
{
    T elements[COUNT];
};

constexpr int VECTOR_BYTES = 16;

/* How many elements of a type a 16-byte vector has. */
template <typename T>
constexpr int VECTOR_WIDTH = VECTOR_BYTES / static_cast<int>(sizeof(T));

template <typename T>
using WideVector = Vector<T, VECTOR_WIDTH<T>>;

} // namespace trtllm_ext

#endif
