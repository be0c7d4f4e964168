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

std::vector<Dims> in_network(Played const& played)
{
    std::vector<Dims> all;
    for (Input const& input : played.inputs)
    {
        all.push_back(network_dims(input));
    }
    return all;
}

/* Descriptions of the first tensors, with bounds. */
std::vector<DynamicPluginTensorDesc> described(PluginTensorDesc const* tensors, std::vector<Dims> const& network,
    std::vector<Dims> const& least, std::vector<Dims> const& best, std::vector<Dims> const& most)
{
    std::vector<DynamicPluginTensorDesc> all;
    for (size_t i = 0; i < network.size(); ++i)
    {
        PluginTensorDesc desc = tensors[i];
        desc.dims = network[i];
        all.push_back(dynamic(desc, least[i], best[i], most[i]));
    }
    return all;
}

/* The inputs' shapes, and up to `wider` times as many where they vary. */
Profile profile_of(Played const& played, std::vector<PluginTensorDesc> const& tensors, int64_t wider)
{
    auto const network = in_network(played);
    auto const least = shapes(played, &Input::least);
    auto const best = shapes(played, &Input::best);
    auto most = shapes(played, &Input::most);
    for (size_t i = 0; i < most.size(); ++i)
    {
        most[i].d[0] *= least[i].d[0] == most[i].d[0] ? 1 : wider;
    }
    Host& host = *played.host;
    return {described(tensors.data(), network, least, best, most),
        described(tensors.data() + network.size(), outputs_of(host, network), outputs_of(host, least),
            outputs_of(host, best), outputs_of(host, most))};
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

void build(Played& played, int64_t wider)
{
    if (played.host == nullptr)
    {
        std::printf("no layer\n");
        return;
    }
    auto const types = played.host->output_types(played.inputs);
    auto const dims = outputs_of(*played.host, in_network(played));
    for (size_t i = 0; i < types.size(); ++i)
    {
        std::printf("output %d %s\n", static_cast<int>(types[i]), text_of(dims[i]).c_str());
    }
    auto const tensors = find_formats(played);
    std::vector<Profile> const profiles{profile_of(played, tensors, 1), profile_of(played, tensors, wider)};
    std::printf("configured %d\n", played.host->configure(profiles, played.workspace_size));
    std::printf("workspace %zu\n", played.workspace_size);
}

} // namespace player
