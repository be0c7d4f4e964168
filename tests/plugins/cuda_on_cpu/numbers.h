/* The arithmetic that CUDA adds to <cmath>. Fast approximations are exact here: CUDA bounds their error, no more. */
#ifndef CUDA_ON_CPU_NUMBERS_H
#define CUDA_ON_CPU_NUMBERS_H

#include <cmath>
#include <cstdint>
#include <cstring>

#include "block.h"

inline float rsqrtf(float x)
{
    return static_cast<float>(1.0 / std::sqrt(static_cast<double>(x)));
}

inline double rsqrt(double x)
{
    return 1.0 / std::sqrt(x);
}

inline float __expf(float x)
{
    return std::exp(x);
}

inline float __logf(float x)
{
    return std::log(x);
}

inline float __frcp_rn(float x)
{
    return 1.0f / x;
}

inline float __frsqrt_rn(float x)
{
    return rsqrtf(x);
}

inline float __fsqrt_rn(float x)
{
    return std::sqrt(x);
}

inline float __fdividef(float x, float y)
{
    return x / y;
}

inline float __fdiv_rn(float x, float y)
{
    return x / y;
}

inline float __fadd_rn(float x, float y)
{
    return x + y;
}

inline float __fsub_rn(float x, float y)
{
    return x - y;
}

inline float __fmul_rn(float x, float y)
{
    return x * y;
}

inline float __fmaf_rn(float x, float y, float z)
{
    return std::fma(x, y, z);
}

inline float __saturatef(float x)
{
    return std::fmin(std::fmax(x, 0.0f), 1.0f);
}

/* Rounds to the nearest integer, halves to the even one; too large values to the ends, NaN to 0. */
inline int __float2int_rn(float x)
{
    return std::isnan(x) ? 0 : x >= 2147483648.0f ? INT32_MAX : x <= -2147483648.0f ? INT32_MIN
                                                                                     : static_cast<int>(std::nearbyint(x));
}

#define CUDA_ON_CPU_BITS(NAME, TO, FROM)                                                                               \
    inline TO NAME(FROM value)                                                                                         \
    {                                                                                                                  \
        TO bits;                                                                                                       \
        std::memcpy(&bits, &value, sizeof(bits));                                                                      \
        return bits;                                                                                                   \
    }

CUDA_ON_CPU_BITS(__float_as_int, int, float)
CUDA_ON_CPU_BITS(__float_as_uint, unsigned, float)
CUDA_ON_CPU_BITS(__int_as_float, float, int)
CUDA_ON_CPU_BITS(__uint_as_float, float, unsigned)
#undef CUDA_ON_CPU_BITS

inline int __popc(unsigned bits)
{
    return __builtin_popcount(bits);
}

inline int __ffs(int bits)
{
    return __builtin_ffs(bits);
}

inline int __clz(int bits)
{
    return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits));
}

/* CUDA's min and max are global; its overloads for two types take the wider. */
#define CUDA_ON_CPU_MIN_MAX(TYPE)                                                                                      \
    inline TYPE min(TYPE x, TYPE y)                                                                                    \
    {                                                                                                                  \
        return y < x ? y : x;                                                                                          \
    }                                                                                                                  \
    inline TYPE max(TYPE x, TYPE y)                                                                                    \
    {                                                                                                                  \
        return x < y ? y : x;                                                                                          \
    }

CUDA_ON_CPU_MIN_MAX(int)
CUDA_ON_CPU_MIN_MAX(unsigned)
CUDA_ON_CPU_MIN_MAX(long)
CUDA_ON_CPU_MIN_MAX(unsigned long)
CUDA_ON_CPU_MIN_MAX(long long)
CUDA_ON_CPU_MIN_MAX(unsigned long long)
#undef CUDA_ON_CPU_MIN_MAX

inline float min(float x, float y)
{
    return std::fmin(x, y);
}

inline float max(float x, float y)
{
    return std::fmax(x, y);
}

inline double min(double x, double y)
{
    return std::fmin(x, y);
}

inline double max(double x, double y)
{
    return std::fmax(x, y);
}

inline void __trap()
{
    cuda_on_cpu::refuse("__trap() was called");
}

#endif
