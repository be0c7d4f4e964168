/*
 * The element types in memory, 16 bytes of them at a time, and as float32, in which everything is computed.
 */
#ifndef TRTLLM_EXT_DEVICE_TYPES_CUH
#define TRTLLM_EXT_DEVICE_TYPES_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

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

/* The widest access to memory that a thread has. */
constexpr int VECTOR_BYTES = 16;

/* How many elements of a type that is. */
template <typename T>
constexpr int VECTOR_WIDTH = VECTOR_BYTES / static_cast<int>(sizeof(T));

/* COUNT neighbours, read and written by one instruction. */
template <typename T, int COUNT>
struct alignas(sizeof(T) * COUNT) Vector
{
    T elements[COUNT];
};

/* 16 bytes of elements as they are in registers: apart, 16-bit elements would take twice as many. */
template <typename T>
struct alignas(VECTOR_BYTES) WideVector
{
    uint32_t words[VECTOR_BYTES / 4];
};

template <typename T, int WIDTH>
struct VectorOfWidth
{
    using Type = Vector<T, WIDTH>;
};

template <typename T>
struct VectorOfWidth<T, VECTOR_WIDTH<T>>
{
    using Type = WideVector<T>;
};

/* WIDTH elements: a WideVector where they are 16 bytes. */
template <typename T, int WIDTH>
using Elements = typename VectorOfWidth<T, WIDTH>::Type;

template <typename To, typename From>
__host__ __device__ inline To same_bits(From const& from)
{
    static_assert(sizeof(To) == sizeof(From), "not the same bits");
    To to;
    memcpy(static_cast<void*>(&to), &from, sizeof(to));
    return to;
}

/*
 * Keeps the elements as they are from here on: the compiler, which would rather convert them once and hold them as
 * float32 in twice the registers, converts them again where they are used next.
 */
template <typename T>
__device__ inline void keep_packed(WideVector<T>& vector)
{
#if defined(__CUDA_ARCH__)
    asm volatile("" : "+r"(vector.words[0]), "+r"(vector.words[1]), "+r"(vector.words[2]), "+r"(vector.words[3]));
#else
    (void) vector;
#endif
}

/* Elements as float32. */
template <typename T, int COUNT>
__device__ inline void to_floats(Vector<T, COUNT> const& vector, float (&values)[COUNT])
{
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
    {
        values[i] = to_float(vector.elements[i]);
    }
}

__device__ inline void to_floats(WideVector<float> const& vector, float (&values)[4])
{
#pragma unroll
    for (int i = 0; i < 4; ++i)
    {
        values[i] = same_bits<float>(vector.words[i]);
    }
}

__device__ inline void to_floats(WideVector<__half> const& vector, float (&values)[8])
{
#pragma unroll
    for (int i = 0; i < 4; ++i)
    {
        float2 const pair = __half22float2(same_bits<__half2>(vector.words[i]));
        values[2 * i] = pair.x;
        values[2 * i + 1] = pair.y;
    }
}

/* A bfloat16 is the upper half of a float32. */
__device__ inline void to_floats(WideVector<__nv_bfloat16> const& vector, float (&values)[8])
{
#pragma unroll
    for (int i = 0; i < 4; ++i)
    {
        values[2 * i] = same_bits<float>(vector.words[i] << 16);
        values[2 * i + 1] = same_bits<float>(vector.words[i] & 0xffff0000u);
    }
}

/* Float32 values as elements, each rounded as from_float() does. */
template <typename T, int COUNT>
__device__ inline void from_floats(float const (&values)[COUNT], Vector<T, COUNT>& vector)
{
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
    {
        vector.elements[i] = from_float<T>(values[i]);
    }
}

__device__ inline void from_floats(float const (&values)[4], WideVector<float>& vector)
{
#pragma unroll
    for (int i = 0; i < 4; ++i)
    {
        vector.words[i] = same_bits<uint32_t>(values[i]);
    }
}

__device__ inline void from_floats(float const (&values)[8], WideVector<__half>& vector)
{
#pragma unroll
    for (int i = 0; i < 4; ++i)
    {
        vector.words[i] = same_bits<uint32_t>(__floats2half2_rn(values[2 * i], values[2 * i + 1]));
    }
}

__device__ inline void from_floats(float const (&values)[8], WideVector<__nv_bfloat16>& vector)
{
#pragma unroll
    for (int i = 0; i < 4; ++i)
    {
        vector.words[i] = same_bits<uint32_t>(__floats2bfloat162_rn(values[2 * i], values[2 * i + 1]));
    }
}

/* The vector that begins with this element. */
template <int WIDTH, typename T>
__device__ inline Elements<T, WIDTH> load(T const* first)
{
    return *reinterpret_cast<Elements<T, WIDTH> const*>(first);
}

template <typename T, typename Vector>
__device__ inline void store(T* first, Vector const& vector)
{
    *reinterpret_cast<Vector*>(first) = vector;
}

template <int WIDTH, typename Vector>
__device__ inline void add_to(float (&values)[WIDTH], Vector const& vector)
{
    float others[WIDTH];
    to_floats(vector, others);
#pragma unroll
    for (int i = 0; i < WIDTH; ++i)
    {
        values[i] += others[i];
    }
}

} // namespace trtllm_ext

#endif
