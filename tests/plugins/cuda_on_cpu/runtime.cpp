/*
 * The functions of CUDA's runtime that the kernels' library calls, for one device that has an H200's properties.
 *
 * The environment variable CUDA_ON_CPU_DEVICE, read at every call, plays other machines: a compute capability ("80"),
 * or "none" for a machine without a GPU.
 */
#include <cuda_runtime_api.h>

#include <time.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "block.h"
#include "launch.h"

namespace
{

constexpr size_t usual_shared_bytes = 48 * 1024;
constexpr size_t most_shared_bytes = 227 * 1024;

thread_local cudaError_t last_error = cudaSuccess;
thread_local char const* failure = nullptr;

std::mutex shared_bytes_lock;
std::map<void const*, size_t> shared_bytes_of_kernel;

cudaError_t keep(cudaError_t error)
{
    last_error = error == cudaSuccess ? last_error : error;
    return error;
}

int compute_capability()
{
    char const* device = std::getenv("CUDA_ON_CPU_DEVICE");
    return device == nullptr ? 90 : std::atoi(device); // 0 for "none"
}

cudaError_t device_error()
{
    return compute_capability() == 0 ? cudaErrorNoDevice : cudaSuccess;
}

size_t shared_bytes_allowed(void const* kernel)
{
    std::lock_guard<std::mutex> const lock(shared_bytes_lock);
    auto const found = shared_bytes_of_kernel.find(kernel);
    return found == shared_bytes_of_kernel.end() ? usual_shared_bytes : found->second;
}

} // namespace

struct CUevent_st
{
    timespec time;
};

namespace cuda_on_cpu
{

cudaError_t check_launch(cudaLaunchConfig_t const& config, void const* kernel)
{
    dim3 const& grid = config.gridDim;
    dim3 const& block = config.blockDim;
    bool const grid_fits = grid.x >= 1 && grid.x <= 2147483647u && grid.y >= 1 && grid.y <= 65535u && grid.z >= 1
        && grid.z <= 65535u;
    bool const block_fits = block.x >= 1 && block.x <= 1024u && block.y >= 1 && block.y <= 1024u && block.z >= 1
        && block.z <= 64u && size_t{block.x} * block.y * block.z <= 1024u;
    if (device_error() != cudaSuccess)
    {
        return keep(device_error());
    }
    if (!grid_fits || !block_fits)
    {
        return keep(cudaErrorInvalidConfiguration);
    }
    return config.dynamicSmemBytes <= shared_bytes_allowed(kernel) ? cudaSuccess : keep(cudaErrorInvalidValue);
}

cudaError_t run_launch(cudaLaunchConfig_t const& config, void (*kernel)(void*), void* arguments)
{
    failure = run_grid(config.gridDim, config.blockDim, config.dynamicSmemBytes, kernel, arguments);
    return failure == nullptr ? cudaSuccess : keep(cudaErrorLaunchFailure);
}

} // namespace cuda_on_cpu

cudaError_t cudaGetLastError()
{
    cudaError_t const error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError()
{
    return last_error;
}

char const* cudaGetErrorName(cudaError_t error)
{
    switch (error)
    {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    default: return "an error that cuda_on_cpu does not make";
    }
}

char const* cudaGetErrorString(cudaError_t error)
{
    switch (error)
    {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorLaunchFailure: return failure == nullptr ? "unspecified launch failure" : failure;
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    default: return cudaGetErrorName(error);
    }
}

cudaError_t cudaGetDeviceCount(int* count)
{
    *count = compute_capability() == 0 ? 0 : 1;
    return keep(device_error());
}

cudaError_t cudaGetDevice(int* device)
{
    *device = 0;
    return keep(device_error());
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device)
{
    if (device_error() != cudaSuccess || device != 0)
    {
        return keep(device != 0 ? cudaErrorInvalidDevice : device_error());
    }
    switch (attribute)
    {
    case cudaDevAttrComputeCapabilityMajor: *value = compute_capability() / 10; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: *value = compute_capability() % 10; return cudaSuccess;
    case cudaDevAttrMultiProcessorCount: *value = 132; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = usual_shared_bytes; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = most_shared_bytes; return cudaSuccess;
    default: return keep(cudaErrorInvalidValue);
    }
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device)
{
    *properties = {};
    std::strncpy(properties->name, "CUDA on the CPU", sizeof(properties->name) - 1);
    properties->major = compute_capability() / 10;
    properties->minor = compute_capability() % 10;
    properties->multiProcessorCount = 132;
    return keep(device != 0 ? cudaErrorInvalidDevice : device_error());
}

cudaError_t cudaFuncSetAttribute(void const* kernel, cudaFuncAttribute attribute, int value)
{
    bool const fits = value >= 0 && static_cast<size_t>(value) <= most_shared_bytes;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || !fits)
    {
        return keep(cudaErrorInvalidValue);
    }
    std::lock_guard<std::mutex> const lock(shared_bytes_lock);
    shared_bytes_of_kernel[kernel] = static_cast<size_t>(value);
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status)
{
    *status = cudaStreamCaptureStatusNone;
    return keep(device_error());
}

cudaError_t cudaStreamSynchronize(cudaStream_t)
{
    return keep(device_error());
}

cudaError_t cudaEventCreate(cudaEvent_t* event)
{
    *event = new CUevent_st{};
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned)
{
    return cudaEventCreate(event);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t)
{
    // The processor's time of the thread that plays the stream: nobody else on the machine makes a kernel slower.
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &event->time);
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t)
{
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end)
{
    auto const seconds = static_cast<double>(end->time.tv_sec - start->time.tv_sec);
    auto const nanoseconds = static_cast<double>(end->time.tv_nsec - start->time.tv_nsec);
    *milliseconds = static_cast<float>(1e3 * seconds + 1e-6 * nanoseconds);
    return cudaSuccess;
}
