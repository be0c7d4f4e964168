/* Loads and stores with a cache hint, fences and atomics: on one processor, plain ones. */
#ifndef CUDA_ON_CPU_MEMORY_OPERATIONS_H
#define CUDA_ON_CPU_MEMORY_OPERATIONS_H

#include <algorithm>

#include "block.h"

#define CUDA_ON_CPU_LOAD(NAME)                                                                                         \
    template <typename T>                                                                                              \
    T NAME(T const* address)                                                                                           \
    {                                                                                                                  \
        return *address;                                                                                               \
    }
#define CUDA_ON_CPU_STORE(NAME)                                                                                        \
    template <typename T>                                                                                              \
    void NAME(T* address, T value)                                                                                     \
    {                                                                                                                  \
        *address = value;                                                                                              \
    }

CUDA_ON_CPU_LOAD(__ldg)
CUDA_ON_CPU_LOAD(__ldca)
CUDA_ON_CPU_LOAD(__ldcg)
CUDA_ON_CPU_LOAD(__ldcs)
CUDA_ON_CPU_LOAD(__ldcv)
CUDA_ON_CPU_LOAD(__ldlu)
CUDA_ON_CPU_STORE(__stcg)
CUDA_ON_CPU_STORE(__stcs)
CUDA_ON_CPU_STORE(__stwb)
CUDA_ON_CPU_STORE(__stwt)
#undef CUDA_ON_CPU_LOAD
#undef CUDA_ON_CPU_STORE

inline void __threadfence()
{
}

inline void __threadfence_block()
{
}

inline void __threadfence_system()
{
}

namespace cuda_on_cpu
{

/* Keeps a parameter's type out of deduction: atomicAdd(&float, 1) converts, as CUDA's overloads do. */
template <typename T>
struct AsGiven
{
    using Type = T;
};

} // namespace cuda_on_cpu

// Each returns what was there before. A thread gives way only at barriers and warp operations, so nothing comes between.
#define CUDA_ON_CPU_ATOMIC(NAME, RESULT)                                                                               \
    template <typename T>                                                                                              \
    T NAME(T* address, typename cuda_on_cpu::AsGiven<T>::Type value)                                                   \
    {                                                                                                                  \
        T const before = *address;                                                                                     \
        *address = static_cast<T>(RESULT);                                                                             \
        return before;                                                                                                 \
    }

CUDA_ON_CPU_ATOMIC(atomicAdd, before + value)
CUDA_ON_CPU_ATOMIC(atomicSub, before - value)
CUDA_ON_CPU_ATOMIC(atomicExch, value)
CUDA_ON_CPU_ATOMIC(atomicMin, std::min(before, value))
CUDA_ON_CPU_ATOMIC(atomicMax, std::max(before, value))
CUDA_ON_CPU_ATOMIC(atomicAnd, before & value)
CUDA_ON_CPU_ATOMIC(atomicOr, before | value)
CUDA_ON_CPU_ATOMIC(atomicXor, before ^ value)
CUDA_ON_CPU_ATOMIC(atomicInc, before >= value ? 0 : before + 1)
#undef CUDA_ON_CPU_ATOMIC

template <typename T>
T atomicCAS(T* address, typename cuda_on_cpu::AsGiven<T>::Type expected, typename cuda_on_cpu::AsGiven<T>::Type value)
{
    T const before = *address;
    if (before == expected)
    {
        *address = value;
    }
    return before;
}

#endif
