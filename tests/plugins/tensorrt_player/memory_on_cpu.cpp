/*
 * The functions of CUDA's runtime that the adapters and the player take, where device memory is the host's. The kernels
 * have their own, in the stand-in of ../cuda_on_cpu.
 *
 * Compiled with IN_THE_PLUGIN_LIBRARY it takes MOST_TUNING_MEMORY of the environment for the size of the largest block
 * that the device still has.
 */
#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace
{

thread_local cudaError_t last_error = cudaSuccess;

size_t largest_block()
{
#ifdef IN_THE_PLUGIN_LIBRARY
    if (char const* const told = std::getenv("MOST_TUNING_MEMORY"))
    {
        return std::strtoull(told, nullptr, 10);
    }
#endif
    return SIZE_MAX;
}

} // namespace

cudaError_t cudaGetDevice(int* device)
{
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, size_t size)
{
    // As CUDA's: 256-byte addresses.
    *memory = size > largest_block() ? nullptr : std::aligned_alloc(256, (size + 255) / 256 * 256);
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
