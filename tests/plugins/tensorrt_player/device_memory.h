/* Memory of the device, with a margin behind it that shows who writes too far; and runs that are captured and replayed. */
#ifndef TENSORRT_PLAYER_DEVICE_MEMORY_H
#define TENSORRT_PLAYER_DEVICE_MEMORY_H

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace player
{

inline void require(cudaError_t error, char const* what)
{
    if (error != cudaSuccess)
    {
        std::printf("cuda %s: %s\n", what, cudaGetErrorString(error));
        std::exit(3);
    }
}

class DeviceMemory
{
public:
    /* Filled with bytes of 0xFF: NaN in every type of ours. */
    explicit DeviceMemory(size_t size)
        : size_(size)
    {
        require(cudaMalloc(&data_, size + MARGIN), "cudaMalloc");
        std::vector<uint8_t> const fill(size + MARGIN, 0xFF);
        require(cudaMemcpy(data_, fill.data(), fill.size(), cudaMemcpyHostToDevice), "cudaMemcpy");
    }

    DeviceMemory(DeviceMemory&& other) noexcept
        : data_(other.data_)
        , size_(other.size_)
    {
        other.data_ = nullptr;
    }

    DeviceMemory(DeviceMemory const&) = delete;

    ~DeviceMemory()
    {
        cudaFree(data_);
    }

    void* data() const
    {
        return data_;
    }

    void write(std::vector<uint8_t> const& bytes)
    {
        require(cudaMemcpy(data_, bytes.data(), bytes.size(), cudaMemcpyHostToDevice), "cudaMemcpy");
    }

    std::vector<uint8_t> read() const
    {
        auto bytes = read_all();
        bytes.resize(size_);
        return bytes;
    }

    bool margin_is_whole() const
    {
        auto const bytes = read_all();
        for (size_t i = size_; i < bytes.size(); ++i)
        {
            if (bytes[i] != 0xFF)
            {
                return false;
            }
        }
        return true;
    }

private:
    static constexpr size_t MARGIN = 512;

    std::vector<uint8_t> read_all() const
    {
        std::vector<uint8_t> bytes(size_ + MARGIN);
        require(cudaMemcpy(bytes.data(), data_, bytes.size(), cudaMemcpyDeviceToHost), "cudaMemcpy");
        return bytes;
    }

    void* data_ = nullptr;
    size_t size_;
};

#ifndef TENSORRT_PLAYER_ON_CPU
/* Captures `enqueue` once and runs it as a graph; `after` is called after each run. False where it is not captured. */
template <typename Enqueue, typename After>
bool replay(cudaStream_t stream, int32_t num_replays, Enqueue&& enqueue, After&& after)
{
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
    bool const enqueued = enqueue() == 0;
    require(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    if (!enqueued)
    {
        return false;
    }
    require(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
    for (int32_t i = 0; i < num_replays; ++i)
    {
        require(cudaGraphLaunch(executable, stream), "cudaGraphLaunch");
        require(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
        after();
    }
    require(cudaGraphExecDestroy(executable), "cudaGraphExecDestroy");
    require(cudaGraphDestroy(graph), "cudaGraphDestroy");
    return true;
}
#endif

} // namespace player

#endif
