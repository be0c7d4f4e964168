/* Kernels that show one thing each: right ones, and wrong ones that the stand-in is to find. All have one signature. */
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>

namespace
{

constexpr unsigned ALL = 0xffffffffu;

__device__ unsigned number_in_block()
{
    return (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
}

__device__ unsigned number_in_grid()
{
    unsigned const block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    return block * blockDim.x * blockDim.y * blockDim.z + number_in_block();
}

__global__ void numbers(float const*, float* out, int)
{
    out[number_in_grid()] += static_cast<float>(number_in_grid());
}

// A row a block: within warps by shuffles, between them through shared memory.
template <typename T>
__device__ T sum_of_block(T value)
{
    __shared__ T partial[32];
    for (int offset = 16; offset > 0; offset /= 2)
    {
        value += __shfl_xor_sync(ALL, value, offset);
    }
    if (threadIdx.x % 32 == 0)
    {
        partial[threadIdx.x / 32] = value;
    }
    __syncthreads();
    T total = 0;
    for (unsigned warp = 0; warp < blockDim.x / 32; ++warp)
    {
        total += partial[warp];
    }
    return total;
}

__global__ void __launch_bounds__(256) row_sums(float const* in, float* out, int n)
{
    float sum = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x)
    {
        sum += __ldg(in + static_cast<size_t>(blockIdx.x) * n + i);
    }
    double const total = sum_of_block<double>(sum);
    if (threadIdx.x == 0)
    {
        out[blockIdx.x] = static_cast<float>(total);
    }
}

// Four shuffles of 32 lanes in groups of n.
__global__ void shuffles(float const* in, float* out, int n)
{
    float const value = in[threadIdx.x];
    out[threadIdx.x] = __shfl_xor_sync(ALL, value, 3, n);
    out[32 + threadIdx.x] = __shfl_down_sync(ALL, value, 3, n);
    out[64 + threadIdx.x] = __shfl_up_sync(ALL, value, 3, n);
    out[96 + threadIdx.x] = __shfl_sync(ALL, value, 3, n);
}

// Two halves of a warp that each go on by themselves.
__global__ void half_warps(float const* in, float* out, int)
{
    float value = in[threadIdx.x];
    if (threadIdx.x < 16)
    {
        value = __shfl_xor_sync(0x0000ffffu, value, 1);
        __syncwarp(0x0000ffffu);
    }
    else
    {
        value += __shfl_xor_sync(0xffff0000u, value, 1);
        value += __shfl_xor_sync(0xffff0000u, value, 2);
    }
    out[threadIdx.x] = value;
}

__global__ void votes(float const* in, float* out, int)
{
    int const value = static_cast<int>(in[threadIdx.x]);
    out[threadIdx.x] = static_cast<float>(__popc(__ballot_sync(ALL, value > 0)));
    out[32 + threadIdx.x] = static_cast<float>(__any_sync(ALL, value > 2) + 2 * __all_sync(ALL, value > -9));
    out[64 + threadIdx.x] = static_cast<float>(__popc(__match_any_sync(ALL, value)));
    out[96 + threadIdx.x] = static_cast<float>(__reduce_add_sync(ALL, value));
    out[128 + threadIdx.x] = static_cast<float>(__reduce_min_sync(ALL, value));
    out[160 + threadIdx.x] = static_cast<float>(__reduce_max_sync(ALL, static_cast<unsigned>(value + 9)));
}

__global__ void counting_barriers(float const* in, float* out, int)
{
    int const positive = in[threadIdx.x] > 0;
    int const count = __syncthreads_count(positive);
    out[threadIdx.x] = static_cast<float>(count + 1000 * __syncthreads_or(positive) + 2000 * __syncthreads_and(positive));
}

// out: a sum, a histogram of 4 bins, a maximum, a maximum by compare-and-swap.
__global__ void atomics(float const* in, float* out, int)
{
    float const value = in[number_in_grid()];
    atomicAdd(out, value);
    atomicAdd(out + 1 + static_cast<int>(value) % 4, 1);
    atomicMax(reinterpret_cast<int*>(out) + 5, static_cast<int>(value));
    int* const highest = reinterpret_cast<int*>(out) + 6;
    for (int before = *highest; before < value;)
    {
        before = atomicCAS(highest, before, static_cast<int>(value));
    }
}

// n numbers in dynamic shared memory, backwards.
__global__ void reversed(float const* in, float* out, int n)
{
    auto* const shared = static_cast<float*>(cuda_on_cpu::dynamic_shared_memory());
    for (int i = threadIdx.x; i < n; i += blockDim.x)
    {
        shared[i] = in[i];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x)
    {
        out[i] = shared[n - 1 - i];
    }
}

template <typename T>
__global__ void shared_as_it_begins(float const*, float* out, int)
{
    __shared__ T shared[64];
    auto* const dynamic_shared = static_cast<float*>(cuda_on_cpu::dynamic_shared_memory());
    out[number_in_grid()] = threadIdx.x % 2 == 0 ? shared[threadIdx.x] : dynamic_shared[threadIdx.x];
    __syncthreads();
    shared[threadIdx.x] = dynamic_shared[threadIdx.x] = 1.0f;
}

// Wrong from here on.

__global__ void barrier_for_some(float const*, float* out, int n)
{
    if (static_cast<int>(threadIdx.x) < n)
    {
        __syncthreads(); // barrier_for_some
    }
    out[threadIdx.x] = 1.0f;
}

__global__ void two_barriers_as_one(float const*, float* out, int n)
{
    if (static_cast<int>(threadIdx.x) < n)
    {
        __syncthreads(); // two_barriers_as_one
    }
    else
    {
        __syncthreads();
    }
    out[threadIdx.x] = 1.0f;
}

__global__ void shuffle_without_lane_n(float const*, float* out, int n)
{
    if (static_cast<int>(threadIdx.x) != n)
    {
        out[threadIdx.x] = __shfl_down_sync(ALL, 1.0f, 1); // shuffle_without_lane_n
    }
}

__global__ void shuffle_from_outside(float const*, float* out, int)
{
    if (threadIdx.x < 16)
    {
        out[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, 1.0f, 16); // shuffle_from_outside
    }
}

__global__ void mask_without_caller(float const*, float* out, int)
{
    out[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, 1.0f, 1); // mask_without_caller
}

// What a thread reads depends on who runs first.
__global__ void missing_barrier(float const* in, float* out, int)
{
    __shared__ float shared[64];
    shared[threadIdx.x] = in[threadIdx.x];
    out[threadIdx.x] = shared[(threadIdx.x + 1) % blockDim.x];
}

__global__ void reads_beyond_input(float const* in, float* out, int n)
{
    out[0] = in[n];
}

__global__ void writes_beyond_shared(float const*, float* out, int n)
{
    __shared__ float shared[64];
    shared[n + threadIdx.x] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = shared[threadIdx.x];
}

using Kernel = void (*)(float const*, float*, int);

struct Named
{
    char const* name;
    Kernel kernel;
};

constexpr Named kernels[] = {
    {"numbers", numbers},
    {"row_sums", row_sums},
    {"shuffles", shuffles},
    {"half_warps", half_warps},
    {"votes", votes},
    {"counting_barriers", counting_barriers},
    {"atomics", atomics},
    {"reversed", reversed},
    {"shared_as_it_begins", shared_as_it_begins<float>},
    {"barrier_for_some", barrier_for_some},
    {"two_barriers_as_one", two_barriers_as_one},
    {"shuffle_without_lane_n", shuffle_without_lane_n},
    {"shuffle_from_outside", shuffle_from_outside},
    {"mask_without_caller", mask_without_caller},
    {"missing_barrier", missing_barrier},
    {"reads_beyond_input", reads_beyond_input},
    {"writes_beyond_shared", writes_beyond_shared},
};

Kernel find(char const* name)
{
    for (Named const& named : kernels)
    {
        if (std::strcmp(named.name, name) == 0)
        {
            return named.kernel;
        }
    }
    return nullptr;
}

} // namespace

#define VISIBLE __attribute__((visibility("default")))

/* Launches a kernel; returns "" or CUDA's name for what went wrong and its words. */
extern "C" VISIBLE char const* launch_small(char const* name, unsigned const* grid, unsigned const* block,
    size_t shared_bytes, float const* in, float* out, int n)
{
    thread_local char said[1200];
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(grid[0], grid[1], grid[2]);
    config.blockDim = dim3(block[0], block[1], block[2]);
    config.dynamicSmemBytes = shared_bytes;
    cudaError_t const error = cudaLaunchKernelEx(&config, find(name), in, out, n);
    std::snprintf(said, sizeof(said), "%s: %s", cudaGetErrorName(error), cudaGetErrorString(error));
    return error == cudaSuccess ? "" : said;
}

extern "C" VISIBLE int allow_shared_bytes(char const* name, int bytes)
{
    return cudaFuncSetAttribute(find(name), cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

/* CUDA's name for the error that the last failing call of this thread left behind, which is taken away. */
extern "C" VISIBLE char const* take_last_error()
{
    return cudaGetErrorName(cudaGetLastError());
}
