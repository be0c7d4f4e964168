/* Launches: cudaLaunchKernelEx of CUDA's C++ interface, which knows the kernel's parameters. */
#ifndef CUDA_ON_CPU_LAUNCH_H
#define CUDA_ON_CPU_LAUNCH_H

#include <cuda_runtime_api.h>

#include <cstddef>
#include <tuple>
#include <utility>

namespace cuda_on_cpu
{

/* Whether a device would take this launch of the kernel at this address; else the error that CUDA has for it. */
cudaError_t check_launch(cudaLaunchConfig_t const& config, void const* kernel);

/* Runs the kernel over the grid; cudaErrorLaunchFailure, with its reason behind cudaGetErrorString(), if that fails. */
cudaError_t run_launch(cudaLaunchConfig_t const& config, void (*kernel)(void*), void* arguments);

} // namespace cuda_on_cpu

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(
    cudaLaunchConfig_t const* config, void (*kernel)(Parameters...), Arguments&&... arguments)
{
    cudaError_t const error = cuda_on_cpu::check_launch(*config, reinterpret_cast<void const*>(kernel));
    if (error != cudaSuccess)
    {
        return error;
    }
    // Every thread begins with its own copy of the parameters, as they were at the launch.
    struct Call
    {
        void (*kernel)(Parameters...);
        std::tuple<Parameters...> parameters;
    } call{kernel, std::tuple<Parameters...>(std::forward<Arguments>(arguments)...)};
    auto const run = [](void* given) {
        auto const* made = static_cast<Call const*>(given);
        std::apply(made->kernel, made->parameters);
    };
    return cuda_on_cpu::run_launch(*config, run, &call);
}

template <typename... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute attribute, int value)
{
    return cudaFuncSetAttribute(reinterpret_cast<void const*>(kernel), attribute, value);
}

template <typename... Parameters>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, void (*kernel)(Parameters...))
{
    return cudaFuncGetAttributes(attributes, reinterpret_cast<void const*>(kernel));
}

#endif
