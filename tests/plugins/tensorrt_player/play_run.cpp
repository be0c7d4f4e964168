#include "device_memory.h"
#include "play.h"
#include "tensors.h"

namespace player
{

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::PluginTensorDesc;

namespace
{

/* All that a run reads and writes. Outputs and workspace are full of NaNs before the first. */
class Memory
{
public:
    Memory(Played const& played, std::vector<PluginTensorDesc> const& inputs,
        std::vector<PluginTensorDesc> const& outputs)
        : workspace(played.workspace_size)
    {
        for (size_t i = 0; i < inputs.size(); ++i)
        {
            auto bytes = played.data[i];
            bytes.resize(size_of(inputs[i]));
            areas_.emplace_back(bytes.size());
            areas_.back().write(bytes);
            sources.push_back(areas_.back().data());
        }
        for (auto const& output : outputs)
        {
            areas_.emplace_back(size_of(output));
            targets.push_back(areas_.back().data());
        }
    }

    std::vector<std::vector<uint8_t>> results() const
    {
        std::vector<std::vector<uint8_t>> all;
        for (size_t i = sources.size(); i < areas_.size(); ++i)
        {
            all.push_back(areas_[i].read());
        }
        return all;
    }

    bool margins_are_whole() const
    {
        bool whole = workspace.margin_is_whole();
        for (auto const& area : areas_)
        {
            whole = whole && area.margin_is_whole();
        }
        return whole;
    }

    std::vector<void const*> sources;
    std::vector<void*> targets;
    DeviceMemory workspace;

private:
    std::vector<DeviceMemory> areas_;
};

std::vector<PluginTensorDesc> linear_tensors(std::vector<Dims> const& shapes, std::vector<DataType> const& types)
{
    std::vector<PluginTensorDesc> tensors;
    for (size_t i = 0; i < shapes.size(); ++i)
    {
        tensors.push_back({shapes[i], types[i], nvinfer1::TensorFormat::kLINEAR, 0});
    }
    return tensors;
}

std::vector<PluginTensorDesc> inputs_at_batch(Played const& played)
{
    std::vector<Dims> dims = shapes(played, &Input::best);
    std::vector<DataType> types;
    for (size_t i = 0; i < dims.size(); ++i)
    {
        Input const& input = played.inputs[i];
        dims[i].d[0] = input.least.d[0] == input.most.d[0] ? dims[i].d[0] : played.batch;
        types.push_back(input.type);
    }
    return linear_tensors(dims, types);
}

std::vector<PluginTensorDesc> outputs_of_inputs(Played const& played, std::vector<PluginTensorDesc> const& inputs)
{
    std::vector<Dims> dims;
    for (auto const& input : inputs)
    {
        dims.push_back(input.dims);
    }
    return linear_tensors(outputs_of(*played.host, dims), played.host->output_types(played.inputs));
}

template <typename Enqueue>
void say_replays(cudaStream_t stream, int32_t num_replays, Enqueue const& enqueue, Memory const& memory)
{
#ifdef TENSORRT_PLAYER_ON_CPU
    (void) stream, (void) num_replays, (void) enqueue, (void) memory;
    std::printf("replays none on the CPU\n");
#else
    auto const first = memory.results();
    int32_t num_same = 0;
    bool const captured
        = replay(stream, num_replays, enqueue, [&] { num_same += memory.results() == first ? 1 : 0; });
    std::printf("replays %d captured %d same %d\n", num_replays, captured, num_same);
#endif
}

} // namespace

void run(Played& played, int32_t num_replays)
{
    if (played.host == nullptr)
    {
        std::printf("no layer\n");
        return;
    }
    auto const in = inputs_at_batch(played);
    auto const out = outputs_of_inputs(played, in);
    Memory const memory(played, in, out);
    cudaStream_t stream = nullptr;
    require(cudaStreamCreate(&stream), "cudaStreamCreate");
    int32_t const changed = played.host->change_shapes(in, out);
    auto const enqueue = [&]
    { return played.host->enqueue(in, out, memory.sources, memory.targets, memory.workspace.data(), stream); };
    int32_t const status = enqueue();
    int32_t const after = cudaStreamSynchronize(stream);
    std::printf("run %d changed %d cuda %d %d\n", status, changed, after, static_cast<int>(cudaGetLastError()));
    if (num_replays > 0)
    {
        say_replays(stream, num_replays, enqueue, memory);
    }
    auto const results = memory.results();
    for (size_t i = 0; i < results.size() && status == 0; ++i)
    {
        write_file(played.folder + "/output_" + std::to_string(i), results[i]);
    }
    std::printf("margins %d\n", memory.margins_are_whole());
    require(cudaStreamDestroy(stream), "cudaStreamDestroy");
}

} // namespace player
