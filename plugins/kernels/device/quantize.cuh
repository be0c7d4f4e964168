/* A float32 as an int8 or float8 element, saturated. */
#ifndef TRTLLM_EXT_DEVICE_QUANTIZE_CUH
#define TRTLLM_EXT_DEVICE_QUANTIZE_CUH

#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

namespace trtllm_ext
{

constexpr float LARGEST_INT8 = 127.0f;
constexpr float LARGEST_FLOAT8_E4M3 = 448.0f;

/* The nearest int8, ties to even; NaN gives 0, as int8 has none. Returns its bits. */
__device__ inline uint8_t quantize_int8(float value)
{
    float const nearest = rintf(value);
    float const bounded = nearest > 127.0f ? 127.0f : nearest < -128.0f ? -128.0f : nearest;
    int const number = bounded != bounded ? 0 : static_cast<int>(bounded);
    return static_cast<uint8_t>(number);
}

/* The nearest float8 e4m3, ties to even; NaN stays NaN. Returns its bits. */
__device__ inline uint8_t quantize_float8(float value)
{
    return static_cast<uint8_t>(__nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3));
}

} // namespace trtllm_ext

#endif
