#include <NvInferVersion.h>

#if NV_TENSORRT_MAJOR < 10

#include "plugins/tensorrt/plugin_v2.h"

#include "plugins/tensorrt/blob.h"
#include "plugins/tensorrt/generated/operations.h"
#include "plugins/tensorrt/guarded.h"
#include "plugins/tensorrt/refused_plugin_v2.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace trtllm_ext::plugins
{

namespace
{

std::vector<uint8_t> bytes_of(Layer const& layer)
{
    return to_bytes(layer.record(), {layer.operation().fields().values(), layer.operation().state()});
}

std::string text_or_empty(char const* text)
{
    return text == nullptr ? "" : text;
}

} // namespace

PluginV2::PluginV2(Layer layer, std::string plugin_namespace)
    : layer_(std::move(layer))
    , namespace_(std::move(plugin_namespace))
{
}

char const* PluginV2::getPluginType() const noexcept
{
    return layer_.record().name;
}

char const* PluginV2::getPluginVersion() const noexcept
{
    return layer_.record().version;
}

int32_t PluginV2::getNbOutputs() const noexcept
{
    return layer_.num_outputs();
}

int32_t PluginV2::initialize() noexcept
{
    return layer_.resume();
}

void PluginV2::terminate() noexcept {}

size_t PluginV2::getSerializationSize() const noexcept
{
    size_t size = 0;
    guarded(layer_.record().name, layer_.name(), [&] { size = bytes_of(layer_).size(); });
    return size;
}

void PluginV2::serialize(void* buffer) const noexcept
{
    guarded(layer_.record().name, layer_.name(),
        [&]
        {
            auto const bytes = bytes_of(layer_);
            std::copy(bytes.begin(), bytes.end(), static_cast<uint8_t*>(buffer));
        });
}

void PluginV2::destroy() noexcept
{
    delete this;
}

void PluginV2::setPluginNamespace(char const* plugin_namespace) noexcept
{
    guarded(layer_.record().name, layer_.name(), [&] { namespace_ = text_or_empty(plugin_namespace); });
}

char const* PluginV2::getPluginNamespace() const noexcept
{
    return namespace_.c_str();
}

nvinfer1::DataType PluginV2::getOutputDataType(int32_t index, nvinfer1::DataType const*, int32_t) const noexcept
{
    nvinfer1::DataType type = nvinfer1::DataType::kFLOAT;
    guarded(layer_.record().name, layer_.name(), [&] { type = layer_.output_type(index); });
    return type;
}

PluginV2* PluginV2::clone() const noexcept
{
    PluginV2* copy = nullptr;
    guarded(layer_.record().name, layer_.name(), [&] { copy = new PluginV2(layer_, namespace_); });
    return copy;
}

nvinfer1::DimsExprs PluginV2::getOutputDimensions(
    int32_t index, nvinfer1::DimsExprs const* inputs, int32_t, nvinfer1::IExprBuilder& builder) noexcept
{
    return dims_of(layer_.operation().outputs()[index], inputs[0], builder);
}

bool PluginV2::supportsFormatCombination(
    int32_t position, nvinfer1::PluginTensorDesc const* tensors, int32_t, int32_t) noexcept
{
    return layer_.supports(position, tensors[position]);
}

void PluginV2::configurePlugin(nvinfer1::DynamicPluginTensorDesc const* inputs, int32_t num_inputs,
    nvinfer1::DynamicPluginTensorDesc const*, int32_t) noexcept
{
    // A refusal cannot be returned from here; it is what initialize() and enqueue() return.
    layer_.configure(inputs, num_inputs);
}

size_t PluginV2::getWorkspaceSize(
    nvinfer1::PluginTensorDesc const*, int32_t, nvinfer1::PluginTensorDesc const*, int32_t) const noexcept
{
    return layer_.operation().workspace_size();
}

int32_t PluginV2::enqueue(nvinfer1::PluginTensorDesc const* input_descriptions, nvinfer1::PluginTensorDesc const*,
    void const* const* inputs, void* const* outputs, void* workspace, cudaStream_t stream) noexcept
{
    return layer_.enqueue(input_descriptions, inputs, outputs, workspace, stream);
}

CreatorV2::CreatorV2(OperationRecord const& record)
    : record_(record)
    , fields_(field_names_of(record))
    , collection_{static_cast<int32_t>(fields_.size()), fields_.data()}
    , namespace_(TRTLLM_EXT_PLUGIN_NAMESPACE)
{
}

char const* CreatorV2::getPluginName() const noexcept
{
    return record_.name;
}

char const* CreatorV2::getPluginVersion() const noexcept
{
    return record_.version;
}

nvinfer1::PluginFieldCollection const* CreatorV2::getFieldNames() noexcept
{
    return &collection_;
}

PluginV2* CreatorV2::createPlugin(char const* name, nvinfer1::PluginFieldCollection const* fields) noexcept
{
    PluginV2* plugin = nullptr;
    std::string const layer_name = text_or_empty(name);
    guarded(record_.name, layer_name,
        [&]
        {
            std::vector<FieldValue> values;
            auto const& collection = given(fields);
            for (int32_t i = 0; i < collection.nbFields; ++i)
            {
                values.push_back(value_of(collection.fields[i]));
            }
            plugin = new PluginV2(Layer(layer_name, make_operation(Fields(record_, values))), namespace_);
        });
    return plugin;
}

nvinfer1::IPluginV2DynamicExt* CreatorV2::deserializePlugin(char const* name, void const* data, size_t size) noexcept
{
    nvinfer1::IPluginV2DynamicExt* plugin = nullptr;
    std::string const layer_name = text_or_empty(name);
    guarded(record_.name, layer_name,
        [&]
        {
            Blob const blob = from_bytes(record_, data, size);
            auto operation = make_operation(Fields(record_, blob.fields));
            operation->take_state(blob.state);
            plugin = new PluginV2(Layer(layer_name, std::move(operation)), namespace_);
        });
    if (plugin == nullptr)
    {
        guarded(record_.name, layer_name, [&] { plugin = new RefusedPluginV2(record_, namespace_); });
    }
    return plugin;
}

void CreatorV2::setPluginNamespace(char const* plugin_namespace) noexcept
{
    guarded(record_.name, "", [&] { namespace_ = text_or_empty(plugin_namespace); });
}

char const* CreatorV2::getPluginNamespace() const noexcept
{
    return namespace_.c_str();
}

} // namespace trtllm_ext::plugins

#endif
