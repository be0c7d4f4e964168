#include <NvInferVersion.h>

#if NV_TENSORRT_MAJOR < 10

#include "host.h"

#include <algorithm>
#include <cstdlib>

namespace player
{

namespace
{

using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::IPluginV2DynamicExt;
using nvinfer1::PluginTensorDesc;

nvinfer1::IPluginCreator* creator_of(LayerName const& name)
{
    return getPluginRegistry()->getPluginCreator(name.operation.c_str(), name.version.c_str(), "trtllm_ext");
}

struct Destroy
{
    void operator()(IPluginV2DynamicExt* plugin) const
    {
        plugin->destroy();
    }
};

using Plugin = std::unique_ptr<IPluginV2DynamicExt, Destroy>;

template <typename T>
int32_t count(std::vector<T> const& items)
{
    return static_cast<int32_t>(items.size());
}

class HostV2 final : public Host
{
public:
    explicit HostV2(Plugin plugin)
        : plugin_(std::move(plugin))
    {
    }

    ~HostV2() override
    {
        plugin_->terminate();
    }

    int32_t num_outputs() override
    {
        return plugin_->getNbOutputs();
    }

    std::vector<nvinfer1::DataType> output_types(std::vector<Input> const& inputs) override
    {
        std::vector<nvinfer1::DataType> given;
        std::vector<nvinfer1::DataType> types;
        for (Input const& input : inputs)
        {
            given.push_back(input.type);
        }
        for (int32_t i = 0; i < num_outputs(); ++i)
        {
            types.push_back(plugin_->getOutputDataType(i, given.data(), count(given)));
        }
        return types;
    }

    std::vector<nvinfer1::DimsExprs> output_shapes(
        std::vector<nvinfer1::DimsExprs> const& inputs, Expressions& expressions) override
    {
        std::vector<nvinfer1::DimsExprs> shapes;
        for (int32_t i = 0; i < num_outputs(); ++i)
        {
            shapes.push_back(plugin_->getOutputDimensions(i, inputs.data(), count(inputs), expressions));
        }
        return shapes;
    }

    bool supports(int32_t position, std::vector<PluginTensorDesc> const& tensors, int32_t num_inputs) override
    {
        return plugin_->supportsFormatCombination(position, tensors.data(), num_inputs, num_outputs());
    }

    int32_t configure(std::vector<Profile> const& profiles, size_t& workspace_size) override
    {
        workspace_size = 0;
        int32_t status = configure(*plugin_, profiles[0], workspace_size);
        for (size_t i = 1; i < profiles.size() && status == 0; ++i)
        {
            Plugin const clone(plugin_->clone());
            status = configure(*clone, profiles[i], workspace_size);
        }
        return status;
    }

    std::vector<uint8_t> serialize() override
    {
        std::vector<uint8_t> bytes(plugin_->getSerializationSize());
        plugin_->serialize(bytes.data());
        return bytes;
    }

    int32_t change_shapes(
        std::vector<PluginTensorDesc> const& inputs, std::vector<PluginTensorDesc> const& outputs) override
    {
        std::vector<DynamicPluginTensorDesc> in;
        std::vector<DynamicPluginTensorDesc> out;
        for (auto const& input : inputs)
        {
            in.push_back({input, input.dims, input.dims});
        }
        for (auto const& output : outputs)
        {
            out.push_back({output, output.dims, output.dims});
        }
        plugin_->configurePlugin(in.data(), count(in), out.data(), count(out));
        return 0;
    }

    int32_t enqueue(std::vector<PluginTensorDesc> const& inputs, std::vector<PluginTensorDesc> const& outputs,
        std::vector<void const*> const& input_memory, std::vector<void*> const& output_memory, void* workspace,
        cudaStream_t stream) override
    {
        return plugin_->enqueue(
            inputs.data(), outputs.data(), input_memory.data(), output_memory.data(), workspace, stream);
    }

private:
    static int32_t configure(IPluginV2DynamicExt& plugin, Profile const& profile, size_t& workspace_size)
    {
        auto const& in = profile.inputs;
        auto const& out = profile.outputs;
        plugin.configurePlugin(in.data(), count(in), out.data(), count(out));
        int32_t const status = plugin.initialize();
        auto const most_in = largest(in);
        auto const most_out = largest(out);
        workspace_size = std::max(workspace_size,
            plugin.getWorkspaceSize(most_in.data(), count(most_in), most_out.data(), count(most_out)));
        return status;
    }

    static std::vector<PluginTensorDesc> largest(std::vector<DynamicPluginTensorDesc> const& tensors)
    {
        std::vector<PluginTensorDesc> most;
        for (auto const& tensor : tensors)
        {
            most.push_back({tensor.max, tensor.desc.type, tensor.desc.format, 0});
        }
        return most;
    }

    Plugin plugin_;
};

} // namespace

std::unique_ptr<Host> Host::create(LayerName const& name, std::vector<Field> const& fields)
{
    auto* const creator = creator_of(name);
    std::vector<nvinfer1::PluginField> given;
    for (Field const& field : fields)
    {
        given.emplace_back(field.name.c_str(), field.data.data(), field.type, field.length);
    }
    nvinfer1::PluginFieldCollection const collection{count(given), given.data()};
    auto* const made = creator == nullptr ? nullptr : creator->createPlugin(name.layer.c_str(), fields.empty() ? nullptr : &collection);
    if (made == nullptr)
    {
        return nullptr;
    }
    // A network keeps a clone; whoever made the plugin destroys it.
    Plugin const plugin(static_cast<IPluginV2DynamicExt*>(made));
    return std::make_unique<HostV2>(Plugin(plugin->clone()));
}

std::unique_ptr<Host> Host::restore(LayerName const& name, std::vector<uint8_t> const& bytes)
{
    auto* const creator = creator_of(name);
    if (creator == nullptr)
    {
        return nullptr;
    }
    // A copy of exactly that size, so that a look beyond its end is found.
    std::vector<uint8_t> const exact(bytes);
    auto* const made = creator->deserializePlugin(name.layer.c_str(), exact.data(), exact.size());
    if (made == nullptr)
    {
        std::abort(); // as TensorRT 8.6 ends
    }
    Plugin const plugin(static_cast<IPluginV2DynamicExt*>(made));
    if (plugin->initialize() != 0)
    {
        return nullptr;
    }
    Plugin context(plugin->clone());
    context->attachToContext(nullptr, nullptr, nullptr);
    return std::make_unique<HostV2>(std::move(context));
}

std::vector<size_t> Host::own_bytes(std::vector<uint8_t> const& bytes)
{
    std::vector<size_t> all(bytes.size());
    for (size_t i = 0; i < all.size(); ++i)
    {
        all[i] = i;
    }
    return all;
}

std::vector<std::string> Host::field_names(LayerName const& name)
{
    std::vector<std::string> names;
    auto* const creator = creator_of(name);
    auto const* const fields = creator == nullptr ? nullptr : creator->getFieldNames();
    for (int32_t i = 0; fields != nullptr && i < fields->nbFields; ++i)
    {
        names.emplace_back(fields->fields[i].name);
    }
    return names;
}

} // namespace player

#endif
