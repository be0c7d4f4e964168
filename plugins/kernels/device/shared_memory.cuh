/* The shared memory whose size the launch says. */
#ifndef TRTLLM_EXT_DEVICE_SHARED_MEMORY_CUH
#define TRTLLM_EXT_DEVICE_SHARED_MEMORY_CUH

#include <cuda_runtime.h>

namespace trtllm_ext
{

/* Its first byte, at a multiple of 16 bytes. */
__device__ inline void* dynamic_shared_memory()
{
#if defined(__CUDACC__)
    extern __shared__ uint4 trtllm_ext_dynamic_shared[];
    return trtllm_ext_dynamic_shared;
#else
    return cuda_on_cpu::dynamic_shared_memory();
#endif
}

} // namespace trtllm_ext

#endif
