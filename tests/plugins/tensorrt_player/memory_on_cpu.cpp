/*
 * The functions of CUDA's runtime that the adapters and the player take, where device memory is the host's. The kernels
 * have their own, in the stand-in of ../cuda_on_cpu.
 *
 * MOST_DEVICE_MEMORY in the environment plays a device of that many bytes.
 */
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>

namespace
{

thread_local cudaError_t last_error = cudaSuccess;

} // namespace

cudaError_t cudaGetDevice(int* device)
{
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, size_t size)
{
    char const* const most = std::getenv("MOST_DEVICE_MEMORY");
    // As CUDA's: 256-byte addresses.
    *memory = most != nullptr && size > std::strtoull(most, nullptr, 10)
        ? nullptr
        : std::aligned_alloc(256, (size + 255) / 256 * 256);
    last_error = *memory == nullptr ? cudaErrorMemoryAllocation : last_error;
    return *memory == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}

cudaError_t cudaFree(void* memory)
{
    std::free(memory);
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void* target, void const* source, size_t size, cudaMemcpyKind)
{
    std::memcpy(target, source, size);
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t* stream)
{
    *stream = nullptr;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t)
{
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t)
{
    return cudaSuccess;
}

cudaError_t cudaGetLastError()
{
    cudaError_t const error = last_error;
    last_error = cudaSuccess;
    return error;
}

char const* cudaGetErrorString(cudaError_t error)
{
    return error == cudaErrorMemoryAllocation ? "out of memory" : "no error";
}
