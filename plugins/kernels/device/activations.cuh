/*
 * The activations of the C interface in float32, to the accuracy of CUDA's library functions: no fast approximations.
 */
#ifndef TRTLLM_EXT_DEVICE_ACTIVATIONS_CUH
#define TRTLLM_EXT_DEVICE_ACTIVATIONS_CUH

#include <cuda_runtime.h>

#include <cmath>

#include "../trtllm_ext_kernels.h"

namespace trtllm_ext
{

/*
 * expf overflows to infinity for large -x, and 1 / infinity is the 0 that is wanted. __fdividef is within 2 ulp for
 * these denominators, which are at least 1, and gives 0 from 2^126 on; the exact division would branch for each
 * element.
 */
__device__ inline float sigmoid(float x)
{
    return __fdividef(1.0f, 1.0f + expf(-x));
}

/* NaN stays NaN, as it does in the formula max(x, 0) of every framework; fmaxf would make 0 of it. */
__device__ inline float relu(float x)
{
    return x < 0.0f ? 0.0f : x;
}

/* min(x, limit), NaN staying NaN. */
__device__ inline float at_most(float x, float limit)
{
    return x > limit ? limit : x;
}

__device__ inline float clip(float x, float limit)
{
    return x < -limit ? -limit : at_most(x, limit);
}

/* checkpoint.ACTIVATIONS has the formulas. */
template <trtllm_ext_activation ACTIVATION>
__device__ inline float activate(float x)
{
    if constexpr (ACTIVATION == TRTLLM_EXT_RELU)
    {
        return relu(x);
    }
    else if constexpr (ACTIVATION == TRTLLM_EXT_GELU_ERF)
    {
        return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    }
    else if constexpr (ACTIVATION == TRTLLM_EXT_GELU_TANH)
    {
        return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    }
    else if constexpr (ACTIVATION == TRTLLM_EXT_QUICK_GELU)
    {
        return x * sigmoid(1.702f * x);
    }
    else if constexpr (ACTIVATION == TRTLLM_EXT_SILU)
    {
        return x * sigmoid(x);
    }
    else if constexpr (ACTIVATION == TRTLLM_EXT_SQUARED_RELU)
    {
        return relu(x) * relu(x);
    }
    else if constexpr (ACTIVATION == TRTLLM_EXT_SIGMOID)
    {
        return sigmoid(x);
    }
    else if constexpr (ACTIVATION == TRTLLM_EXT_TANH)
    {
        return tanhf(x);
    }
    else
    {
        static_assert(ACTIVATION == TRTLLM_EXT_IDENTITY, "an activation without a formula");
        return x;
    }
}

/* The same for an activation that is known at run time; all threads of a warp take one way. */
__device__ inline float activate(trtllm_ext_activation activation, float x)
{
    switch (activation)
    {
    case TRTLLM_EXT_IDENTITY: return activate<TRTLLM_EXT_IDENTITY>(x);
    case TRTLLM_EXT_RELU: return activate<TRTLLM_EXT_RELU>(x);
    case TRTLLM_EXT_GELU_ERF: return activate<TRTLLM_EXT_GELU_ERF>(x);
    case TRTLLM_EXT_GELU_TANH: return activate<TRTLLM_EXT_GELU_TANH>(x);
    case TRTLLM_EXT_QUICK_GELU: return activate<TRTLLM_EXT_QUICK_GELU>(x);
    case TRTLLM_EXT_SILU: return activate<TRTLLM_EXT_SILU>(x);
    case TRTLLM_EXT_SQUARED_RELU: return activate<TRTLLM_EXT_SQUARED_RELU>(x);
    case TRTLLM_EXT_SIGMOID: return activate<TRTLLM_EXT_SIGMOID>(x);
    case TRTLLM_EXT_TANH: return activate<TRTLLM_EXT_TANH>(x);
    }
    return x;
}

} // namespace trtllm_ext

#endif
