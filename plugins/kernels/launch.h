/*
 * Every kernel of the library is launched here.
 *
 * launch() and launch_dependent() are one thing for C++ compilers, too: the tests' stand-in for CUDA's headers runs the
 * kernel block by block behind the same cudaLaunchKernelEx.
 */
#ifndef TRTLLM_EXT_LAUNCH_H
#define TRTLLM_EXT_LAUNCH_H

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

#include "status.h"

namespace trtllm_ext
{

struct LaunchShape
{
    dim3 grid;
    dim3 block;
    size_t shared_bytes = 0;
};

/* Whether launch_dependent() asks for programmatic dependent launch; off until trtllm_ext_set_dependent_launch(). */
bool dependent_launch_enabled() noexcept;

namespace detail
{

template <typename... Parameters, typename... Arguments>
trtllm_ext_status launch_with(char const* name, void (*kernel)(Parameters...), LaunchShape const& shape,
    trtllm_ext_stream stream, cudaLaunchAttribute* attributes, unsigned num_attributes, Arguments&&... arguments)
{
    cudaLaunchConfig_t config{};
    config.gridDim = shape.grid;
    config.blockDim = shape.block;
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = num_attributes;
    return from_cuda(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), name);
}

} // namespace detail

/* Launches `kernel`; name: what it is called in the sentence of a CUDA_FAILURE. */
template <typename... Parameters, typename... Arguments>
trtllm_ext_status launch(char const* name, void (*kernel)(Parameters...), LaunchShape const& shape,
    trtllm_ext_stream stream, Arguments&&... arguments)
{
    return detail::launch_with(name, kernel, shape, stream, nullptr, 0, std::forward<Arguments>(arguments)...);
}

/*
 * The same for a kernel that begins with wait_for_previous_kernel() (device/dependent_launch.cuh) before it touches
 * anything but constant weights: where it is enabled, its blocks may start while the previous kernel drains. A kernel
 * without that wait must not come here: it would read what is not yet written.
 */
template <typename... Parameters, typename... Arguments>
trtllm_ext_status launch_dependent(char const* name, void (*kernel)(Parameters...), LaunchShape const& shape,
    trtllm_ext_stream stream, Arguments&&... arguments)
{
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    unsigned const num_attributes = dependent_launch_enabled() ? 1 : 0;
    return detail::launch_with(
        name, kernel, shape, stream, &attribute, num_attributes, std::forward<Arguments>(arguments)...);
}

} // namespace trtllm_ext

#endif
