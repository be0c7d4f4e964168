#include "plugins/tensorrt/tuning_memory.h"

#include "plugins/tensorrt/refusal.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <vector>

namespace trtllm_ext::plugins
{

namespace
{

/* Throws Refusal, and leaves no CUDA error behind that a later call of somebody else would be blamed for. */
void require_success(cudaError_t error, std::string const& what)
{
    if (error != cudaSuccess)
    {
        cudaGetLastError();
        throw Refusal(TRTLLM_EXT_CUDA_FAILURE, what + ": " + cudaGetErrorString(error));
    }
}

/* Which bits of 32 are random, and which are set, for an exponent of -5. */
struct Pattern
{
    uint32_t random;
    uint32_t exponent;
};

Pattern pattern_of(trtllm_ext_type type)
{
    switch (type)
    {
    case TRTLLM_EXT_FLOAT16: return {0x83FF83FF, 0x28002800};
    case TRTLLM_EXT_BFLOAT16: return {0x807F807F, 0x3D003D00};
    default: return {0x807FFFFF, 0x3D000000};
    }
}

std::vector<uint32_t> numbers(uint64_t count, Pattern pattern)
{
    std::vector<uint32_t> words(count);
    uint32_t state = 2463534242;
    for (uint32_t& word : words)
    {
        // Marsaglia's xorshift.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        word = (state & pattern.random) | pattern.exponent;
    }
    return words;
}

} // namespace

int32_t current_device()
{
    int device = 0;
    require_success(cudaGetDevice(&device), "no current device");
    return device;
}

TuningMemory::TuningMemory(uint64_t size)
    : size_(size)
{
    if (size > 0)
    {
        require_success(cudaMalloc(&data_, size), "no " + std::to_string(size) + " bytes of device memory to tune with");
    }
}

TuningMemory::TuningMemory(TuningMemory&& other) noexcept
    : data_(other.data_)
    , size_(other.size_)
{
    other.data_ = nullptr;
}

TuningMemory::~TuningMemory()
{
    if (data_ != nullptr)
    {
        cudaFree(data_);
    }
}

void TuningMemory::fill(trtllm_ext_type type)
{
    uint64_t const block = 1 << 20;
    // Up to three bytes at the end stay as they are: a lone 16-bit number of an odd count.
    auto const words = numbers(std::min(size_, block) / 4, pattern_of(type));
    for (uint64_t begin = 0; begin < size_; begin += block)
    {
        uint64_t const count = std::min<uint64_t>(words.size() * 4, size_ - begin);
        void* const target = static_cast<char*>(data_) + begin;
        require_success(cudaMemcpy(target, words.data(), count, cudaMemcpyHostToDevice), "filling memory to tune with");
    }
}

} // namespace trtllm_ext::plugins
