#include "play.h"
#include "tensors.h"

#include <cstdio>

namespace player
{

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

namespace
{

constexpr int32_t NUM_TYPES = NV_TENSORRT_MAJOR < 10 ? 7 : 9;
constexpr int32_t NUM_FORMATS = 13;

    DynamicPluginTensorDesc dynamic(PluginTensorDesc desc, Dims const& least, Dims const& best, Dims const& most)
    {
        DynamicPluginTensorDesc tensor{};
        tensor.desc = desc;
        tensor.min = least;
        tensor.max = most;
#if NV_TENSORRT_MAJOR >= 10
        tensor.opt = best;
#else
        (void) best;
#endif
        return tensor;
    }

/* All types and formats, tensor after tensor, as a builder asks; the one combination that is left is the layer's. */
std::vector<PluginTensorDesc> find_formats(Played& played)
{
    std::vector<PluginTensorDesc> tensors;
    auto const num_inputs = static_cast<int32_t>(played.inputs.size());
    for (int32_t i = 0; i < num_inputs + played.host->num_outputs(); ++i)
    {
        std::vector<PluginTensorDesc> found;
        for (int32_t type = 0; type < NUM_TYPES; ++type)
        {
            for (int32_t format = 0; format < NUM_FORMATS; ++format)
            {
                auto asked = tensors;
                asked.push_back({Dims{}, static_cast<DataType>(type), static_cast<TensorFormat>(format), 0});
                asked.resize(num_inputs + played.host->num_outputs());
                if (played.host->supports(i, asked, num_inputs))
                {
                    found.push_back(asked[i]);
                }
            }
        }
        std::printf("formats %d:", i);
        for (auto const& each : found)
        {
            std::printf(" %d/%d", static_cast<int>(each.type), static_cast<int>(each.format));
        }
        std::printf("\n");
        tensors.push_back(found.empty() ? PluginTensorDesc{} : found[0]);
    }
    return tensors;
}

} // namespace

std::vector<Dims> shapes(Played const& played, Dims Input::*which)
{
    std::vector<Dims> all;
    for (Input const& input : played.inputs)
    {
        all.push_back(input.*which);
    }
    return all;
}

void build(Played& played)
{
    if (played.host == nullptr)
    {
        std::printf("no layer\n");
        return;
    }
    auto const types = played.host->output_types(played.inputs);
    std::vector<Dims> network;
    for (Input const& input : played.inputs)
    {
        network.push_back(network_dims(input));
    }
    auto const in_network = outputs_of(*played.host, network);
    for (size_t i = 0; i < types.size(); ++i)
    {
        std::printf("output %d %s\n", static_cast<int>(types[i]), text_of(in_network[i]).c_str());
    }
    auto const tensors = find_formats(played);
    auto const least = outputs_of(*played.host, shapes(played, &Input::least));
    auto const best = outputs_of(*played.host, shapes(played, &Input::best));
    auto const most = outputs_of(*played.host, shapes(played, &Input::most));
    std::vector<DynamicPluginTensorDesc> in;
    std::vector<DynamicPluginTensorDesc> out;
    for (size_t i = 0; i < played.inputs.size(); ++i)
    {
        PluginTensorDesc desc = tensors[i];
        desc.dims = network[i];
        in.push_back(dynamic(desc, played.inputs[i].least, played.inputs[i].best, played.inputs[i].most));
    }
    for (size_t i = 0; i < types.size(); ++i)
    {
        PluginTensorDesc desc = tensors[played.inputs.size() + i];
        desc.dims = in_network[i];
        out.push_back(dynamic(desc, least[i], best[i], most[i]));
    }
    std::printf("configured %d\n", played.host->configure(in, out));
    played.workspace_size = played.host->workspace_size(in, out);
    std::printf("workspace %zu\n", played.workspace_size);
}

} // namespace player
