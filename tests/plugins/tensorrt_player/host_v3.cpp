#include <NvInferVersion.h>

#if NV_TENSORRT_MAJOR >= 10

#include "host.h"

#include <algorithm>
#include <cstring>

namespace player
{

namespace
{

using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginCapabilityType;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorRTPhase;

using Plugin = std::unique_ptr<nvinfer1::IPluginV3>;

nvinfer1::IPluginCreatorV3One* creator_of(LayerName const& name)
{
    auto* const creator
        = getPluginRegistry()->getCreator(name.operation.c_str(), name.version.c_str(), "trtllm_ext");
    return static_cast<nvinfer1::IPluginCreatorV3One*>(creator);
}

Plugin plugin_of(LayerName const& name, std::vector<Field> const& fields, TensorRTPhase phase)
{
    auto* const creator = creator_of(name);
    std::vector<PluginField> given;
    for (Field const& field : fields)
    {
        given.emplace_back(field.name.c_str(), field.data.data(), field.type, field.length);
    }
    PluginFieldCollection const collection{static_cast<int32_t>(given.size()), given.data()};
    auto const* const taken = fields.empty() ? nullptr : &collection;
    return Plugin(creator == nullptr ? nullptr : creator->createPlugin(name.layer.c_str(), taken, phase));
}

template <typename T>
int32_t count(std::vector<T> const& items)
{
    return static_cast<int32_t>(items.size());
}

class Context final : public nvinfer1::IPluginResourceContext
{
public:
    nvinfer1::IGpuAllocator* getGpuAllocator() const noexcept override
    {
        return nullptr;
    }

    nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept override
    {
        return nullptr;
    }
};

void write(std::vector<uint8_t>& bytes, void const* data, size_t size)
{
    auto const* const begin = static_cast<uint8_t const*>(data);
    bytes.insert(bytes.end(), begin, begin + size);
}

/* Fields as this program keeps them: length of the name, type, length, size of the data, name, data. */
void write(std::vector<uint8_t>& bytes, PluginField const& field)
{
    bool const is_number = field.type == nvinfer1::PluginFieldType::kINT32
        || field.type == nvinfer1::PluginFieldType::kFLOAT32;
    int32_t const header[] = {static_cast<int32_t>(std::strlen(field.name)), static_cast<int32_t>(field.type),
        field.length, is_number ? 4 * field.length : field.length};
    write(bytes, header, sizeof(header));
    write(bytes, field.name, header[0]);
    write(bytes, field.data, header[3]);
}

std::vector<Field> fields_of(std::vector<uint8_t> const& bytes, std::vector<size_t>* own)
{
    std::vector<Field> fields;
    for (size_t at = 0; at < bytes.size();)
    {
        int32_t header[4];
        std::memcpy(header, bytes.data() + at, sizeof(header));
        at += sizeof(header);
        for (int32_t i = 0; own != nullptr && i < header[0] + header[3]; ++i)
        {
            own->push_back(at + i);
        }
        auto const* const name = reinterpret_cast<char const*>(bytes.data() + at);
        auto const* const data = bytes.data() + at + header[0];
        fields.push_back({std::string(name, header[0]), static_cast<nvinfer1::PluginFieldType>(header[1]),
            std::vector<uint8_t>(data, data + header[3]), header[2]});
        at += header[0] + header[3];
    }
    return fields;
}

class HostV3 final : public Host
{
public:
    explicit HostV3(Plugin plugin)
        : plugin_(std::move(plugin))
        , build_(static_cast<nvinfer1::IPluginV3OneBuild*>(
              plugin_->getCapabilityInterface(PluginCapabilityType::kBUILD)))
        , runtime_(static_cast<nvinfer1::IPluginV3OneRuntime*>(
              plugin_->getCapabilityInterface(PluginCapabilityType::kRUNTIME)))
    {
    }

    int32_t num_outputs() override
    {
        return build_->getNbOutputs();
    }

    std::vector<nvinfer1::DataType> output_types(std::vector<Input> const& inputs) override
    {
        std::vector<nvinfer1::DataType> given;
        for (Input const& input : inputs)
        {
            given.push_back(input.type);
        }
        std::vector<nvinfer1::DataType> types(num_outputs());
        build_->getOutputDataTypes(types.data(), count(types), given.data(), count(given));
        return types;
    }

    std::vector<nvinfer1::DimsExprs> output_shapes(
        std::vector<nvinfer1::DimsExprs> const& inputs, Expressions& expressions) override
    {
        std::vector<nvinfer1::DimsExprs> shapes(num_outputs());
        build_->getOutputShapes(inputs.data(), count(inputs), nullptr, 0, shapes.data(), count(shapes), expressions);
        return shapes;
    }

    bool supports(int32_t position, std::vector<PluginTensorDesc> const& tensors, int32_t num_inputs) override
    {
        std::vector<DynamicPluginTensorDesc> dynamic;
        for (auto const& tensor : tensors)
        {
            dynamic.push_back({tensor, tensor.dims, tensor.dims, tensor.dims});
        }
        return build_->supportsFormatCombination(position, dynamic.data(), num_inputs, num_outputs());
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
        std::vector<uint8_t> bytes;
        auto const* const fields = runtime_->getFieldsToSerialize();
        for (int32_t i = 0; fields != nullptr && i < fields->nbFields; ++i)
        {
            write(bytes, fields->fields[i]);
        }
        return bytes;
    }

    int32_t change_shapes(
        std::vector<PluginTensorDesc> const& inputs, std::vector<PluginTensorDesc> const& outputs) override
    {
        return runtime_->onShapeChange(inputs.data(), count(inputs), outputs.data(), count(outputs));
    }

    int32_t enqueue(std::vector<PluginTensorDesc> const& inputs, std::vector<PluginTensorDesc> const& outputs,
        std::vector<void const*> const& input_memory, std::vector<void*> const& output_memory, void* workspace,
        cudaStream_t stream) override
    {
        return runtime_->enqueue(
            inputs.data(), outputs.data(), input_memory.data(), output_memory.data(), workspace, stream);
    }

private:
    static int32_t configure(nvinfer1::IPluginV3& plugin, Profile const& profile, size_t& workspace_size)
    {
        auto const& in = profile.inputs;
        auto const& out = profile.outputs;
        auto* const build
            = static_cast<nvinfer1::IPluginV3OneBuild*>(plugin.getCapabilityInterface(PluginCapabilityType::kBUILD));
        int32_t const status = build->configurePlugin(in.data(), count(in), out.data(), count(out));
        workspace_size
            = std::max(workspace_size, build->getWorkspaceSize(in.data(), count(in), out.data(), count(out)));
        return status;
    }

    Plugin plugin_;
    nvinfer1::IPluginV3OneBuild* build_;
    nvinfer1::IPluginV3OneRuntime* runtime_;
};

bool is_named(nvinfer1::IPluginV3& plugin, LayerName const& name)
{
    auto* const core
        = static_cast<nvinfer1::IPluginV3OneCore*>(plugin.getCapabilityInterface(PluginCapabilityType::kCORE));
    return core->getPluginName() == name.operation && core->getPluginVersion() == name.version
        && core->getPluginNamespace() == std::string("trtllm_ext");
}

} // namespace

std::unique_ptr<Host> Host::create(LayerName const& name, std::vector<Field> const& fields)
{
    Plugin const plugin = plugin_of(name, fields, TensorRTPhase::kBUILD);
    if (plugin == nullptr || !is_named(*plugin, name))
    {
        return nullptr;
    }
    // A network keeps a clone; whoever made the plugin deletes it.
    return std::make_unique<HostV3>(Plugin(plugin->clone()));
}

std::unique_ptr<Host> Host::restore(LayerName const& name, std::vector<uint8_t> const& bytes)
{
    Plugin const plugin = plugin_of(name, fields_of(bytes, nullptr), TensorRTPhase::kRUNTIME);
    if (plugin == nullptr || !is_named(*plugin, name))
    {
        return nullptr;
    }
    auto* const runtime
        = static_cast<nvinfer1::IPluginV3OneRuntime*>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    Context context;
    Plugin attached(runtime->attachToContext(&context));
    return attached == nullptr ? nullptr : std::make_unique<HostV3>(std::move(attached));
}

std::vector<size_t> Host::own_bytes(std::vector<uint8_t> const& bytes)
{
    std::vector<size_t> own;
    fields_of(bytes, &own);
    return own;
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
