#include "device_facts.h"

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdio>

#include "architectures.h"
#include "launch.h"
#include "status.h"

#ifndef TRTLLM_EXT_ARCHITECTURES
#error "Say which architectures are compiled: -DTRTLLM_EXT_ARCHITECTURES='\"90a\"'"
#endif

namespace
{

constexpr int MOST_DEVICES = 64;

// Compute capability and multiprocessors of a device in one number, so that threads see both or neither: 0 is unknown.
std::atomic<int> known_devices[MOST_DEVICES];

std::atomic<bool> dependent_launch{false};

// CUDART_VERSION is 13000 for 13.0.
char const* info_text() noexcept
{
    static char text[256];
    static bool const made = std::snprintf(text, sizeof(text),
                                 "{\"kernels_abi\": %d, \"cuda\": \"%d.%d\", \"architectures\": \"%s\"}",
                                 TRTLLM_EXT_KERNELS_ABI, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10,
                                 TRTLLM_EXT_ARCHITECTURES)
        > 0;
    return made ? text : "";
}

trtllm_ext_status no_device(cudaError_t error) noexcept
{
    (void) cudaGetLastError();
    return trtllm_ext::fail(TRTLLM_EXT_UNSUPPORTED_DEVICE,
        "No CUDA device can be used: CUDA says %s, \"%s\". The kernels need an NVIDIA GPU with a driver for CUDA %d.%d",
        cudaGetErrorName(error), cudaGetErrorString(error), CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
}

cudaError_t ask(int ordinal, int* known) noexcept
{
    int major = 0;
    int minor = 0;
    int multiprocessors = 0;
    cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ordinal);
    error = error == cudaSuccess ? cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, ordinal) : error;
    error = error == cudaSuccess
        ? cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, ordinal)
        : error;
    *known = (10 * major + minor) * 65536 + multiprocessors;
    return error;
}

} // namespace

namespace trtllm_ext
{

trtllm_ext_status current_device(DeviceFacts* facts) noexcept
{
    int ordinal = 0;
    cudaError_t error = cudaGetDevice(&ordinal);
    if (error != cudaSuccess)
    {
        return no_device(error);
    }
    bool const remembered = ordinal < MOST_DEVICES;
    int known = remembered ? known_devices[ordinal].load(std::memory_order_relaxed) : 0;
    if (known == 0)
    {
        error = ask(ordinal, &known);
        if (error != cudaSuccess)
        {
            return no_device(error);
        }
        if (remembered)
        {
            known_devices[ordinal].store(known, std::memory_order_relaxed);
        }
    }
    *facts = {ordinal, known / 65536, known % 65536};
    if (!architectures_serve(TRTLLM_EXT_ARCHITECTURES, facts->compute_capability))
    {
        return fail(TRTLLM_EXT_UNSUPPORTED_DEVICE,
            "Device %d has compute capability %d.%d, and this library has code for %s. Build it for this device: make "
            "plugins ARCHITECTURES=%d",
            ordinal, facts->compute_capability / 10, facts->compute_capability % 10, TRTLLM_EXT_ARCHITECTURES,
            facts->compute_capability);
    }
    return TRTLLM_EXT_SUCCESS;
}

bool dependent_launch_enabled() noexcept
{
    DeviceFacts facts{};
    // Before 9.0 there is no such launch.
    return dependent_launch.load(std::memory_order_relaxed) && current_device(&facts) == TRTLLM_EXT_SUCCESS
        && facts.compute_capability >= 90;
}

} // namespace trtllm_ext

extern "C" int32_t trtllm_ext_kernels_abi(void)
{
    return TRTLLM_EXT_KERNELS_ABI;
}

extern "C" char const* trtllm_ext_kernels_info(void)
{
    return info_text();
}

extern "C" trtllm_ext_status trtllm_ext_device_status(void)
{
    trtllm_ext::DeviceFacts facts{};
    return trtllm_ext::current_device(&facts);
}

extern "C" void trtllm_ext_set_dependent_launch(int32_t enabled)
{
    dependent_launch.store(enabled != 0, std::memory_order_relaxed);
}
