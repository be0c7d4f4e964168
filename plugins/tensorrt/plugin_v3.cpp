#include <NvInferVersion.h>

#if NV_TENSORRT_MAJOR >= 10

#include "plugins/tensorrt/plugin_v3.h"

#include "plugins/tensorrt/generated/operations.h"
#include "plugins/tensorrt/guarded.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace trtllm_ext::plugins
{

using nvinfer1::PluginCapabilityType;

PluginV3::PluginV3(Layer layer)
    : layer_(std::move(layer))
    , metadata_(layer_.operation().fields().text())
{
}

nvinfer1::IPluginCapability* PluginV3::getCapabilityInterface(PluginCapabilityType type) noexcept
{
    switch (type)
    {
    case PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
}

PluginV3* PluginV3::clone() noexcept
{
    PluginV3* copy = nullptr;
    guarded(layer_.record().name, layer_.name(), [&] { copy = new PluginV3(layer_); });
    return copy;
}

char const* PluginV3::getPluginName() const noexcept
{
    return layer_.record().name;
}

char const* PluginV3::getPluginVersion() const noexcept
{
    return layer_.record().version;
}

char const* PluginV3::getPluginNamespace() const noexcept
{
    return TRTLLM_EXT_PLUGIN_NAMESPACE;
}

int32_t PluginV3::configurePlugin(nvinfer1::DynamicPluginTensorDesc const* inputs, int32_t num_inputs,
    nvinfer1::DynamicPluginTensorDesc const*, int32_t) noexcept
{
    return layer_.configure(inputs, num_inputs);
}

int32_t PluginV3::getOutputDataTypes(
    nvinfer1::DataType* output_types, int32_t num_outputs, nvinfer1::DataType const*, int32_t) const noexcept
{
    return guarded(layer_.record().name, layer_.name(),
        [&]
        {
            for (int32_t i = 0; i < num_outputs; ++i)
            {
                output_types[i] = layer_.output_type(i);
            }
        });
}

int32_t PluginV3::getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t, nvinfer1::DimsExprs const*, int32_t,
    nvinfer1::DimsExprs* outputs, int32_t num_outputs, nvinfer1::IExprBuilder& builder) noexcept
{
    for (int32_t i = 0; i < num_outputs; ++i)
    {
        outputs[i] = dims_of(layer_.operation().outputs()[i], inputs[0], builder);
    }
    return TRTLLM_EXT_SUCCESS;
}

bool PluginV3::supportsFormatCombination(
    int32_t position, nvinfer1::DynamicPluginTensorDesc const* tensors, int32_t, int32_t) noexcept
{
    return layer_.supports(position, tensors[position].desc);
}

int32_t PluginV3::getNbOutputs() const noexcept
{
    return layer_.num_outputs();
}

size_t PluginV3::getWorkspaceSize(nvinfer1::DynamicPluginTensorDesc const*, int32_t,
    nvinfer1::DynamicPluginTensorDesc const*, int32_t) const noexcept
{
    return layer_.operation().workspace_size();
}

char const* PluginV3::getMetadataString() noexcept
{
    return metadata_.c_str();
}

int32_t PluginV3::onShapeChange(
    nvinfer1::PluginTensorDesc const* inputs, int32_t num_inputs, nvinfer1::PluginTensorDesc const*, int32_t) noexcept
{
    return layer_.configure(inputs, num_inputs);
}

int32_t PluginV3::enqueue(nvinfer1::PluginTensorDesc const* input_descriptions, nvinfer1::PluginTensorDesc const*,
    void const* const* inputs, void* const* outputs, void* workspace, cudaStream_t stream) noexcept
{
    return layer_.enqueue(input_descriptions, inputs, outputs, workspace, stream);
}

PluginV3* PluginV3::attachToContext(nvinfer1::IPluginResourceContext*) noexcept
{
    std::unique_ptr<PluginV3> copy(clone());
    return copy != nullptr && copy->layer_.resume() == TRTLLM_EXT_SUCCESS ? copy.release() : nullptr;
}

nvinfer1::PluginFieldCollection const* PluginV3::getFieldsToSerialize() noexcept
{
    nvinfer1::PluginFieldCollection const* fields = nullptr;
    guarded(layer_.record().name, layer_.name(), [&] { fields = serialized_.take(layer_); });
    return fields;
}

CreatorV3::CreatorV3(OperationRecord const& record)
    : record_(record)
    , fields_(field_names_of(record))
    , collection_{static_cast<int32_t>(fields_.size()), fields_.data()}
{
}

char const* CreatorV3::getPluginName() const noexcept
{
    return record_.name;
}

char const* CreatorV3::getPluginVersion() const noexcept
{
    return record_.version;
}

char const* CreatorV3::getPluginNamespace() const noexcept
{
    return TRTLLM_EXT_PLUGIN_NAMESPACE;
}

nvinfer1::PluginFieldCollection const* CreatorV3::getFieldNames() noexcept
{
    return &collection_;
}

PluginV3* CreatorV3::createPlugin(
    char const* name, nvinfer1::PluginFieldCollection const* fields, nvinfer1::TensorRTPhase phase) noexcept
{
    PluginV3* plugin = nullptr;
    std::string const layer_name = name == nullptr ? "" : name;
    guarded(record_.name, layer_name,
        [&]
        {
            bool const in_engine = phase == nvinfer1::TensorRTPhase::kRUNTIME;
            auto const& collection = given(fields);
            Blob blob;
            if (in_engine)
            {
                blob = SerializedFields::blob_of(record_, collection);
            }
            for (int32_t i = 0; !in_engine && i < collection.nbFields; ++i)
            {
                blob.fields.push_back(value_of(collection.fields[i]));
            }
            auto operation = make_operation(Fields(record_, blob.fields));
            if (in_engine)
            {
                operation->take_state(blob.state);
            }
            plugin = new PluginV3(Layer(layer_name, std::move(operation)));
        });
    return plugin;
}

} // namespace trtllm_ext::plugins

#endif
