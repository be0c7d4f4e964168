/*
 * Programmatic dependent launch: a kernel starts while the one before it in the stream drains. Both functions do
 * nothing in a kernel that was launched without the attribute, and before compute capability 9.0.
 */
#ifndef TRTLLM_EXT_DEVICE_DEPENDENT_LAUNCH_CUH
#define TRTLLM_EXT_DEVICE_DEPENDENT_LAUNCH_CUH

namespace trtllm_ext
{

/*
 * Returns when all that the previous kernel wrote is there. Before it, read constant weights only, and write nothing.
 */
__device__ inline void wait_for_previous_kernel()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* Lets the next kernel's blocks start as soon as there is room: it waits itself for what this one writes. */
__device__ inline void let_next_kernel_start()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

} // namespace trtllm_ext

#endif
