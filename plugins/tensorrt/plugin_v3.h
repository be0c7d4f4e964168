/* The operations as plugins of TensorRT 10 and later: IPluginV3 and its creator, one class each for all operations. */
#ifndef TRTLLM_EXT_PLUGINS_PLUGIN_V3_H
#define TRTLLM_EXT_PLUGINS_PLUGIN_V3_H

#include "plugins/tensorrt/blob.h"
#include "plugins/tensorrt/layer.h"

#include <string>
#include <vector>

namespace trtllm_ext::plugins
{

/* What an engine keeps of a layer, as fields by name. Lives as long as the collection is in use. */
class SerializedFields
{
public:
    /* All fields of the operation, its state, and the format and checksum of the blob that they would make. */
    nvinfer1::PluginFieldCollection const* take(Layer const& layer);

    /* The layer that such fields are; throws Refusal where one is missing, foreign or damaged. */
    static Blob blob_of(OperationRecord const& record, nvinfer1::PluginFieldCollection const& fields);

private:
    std::vector<int32_t> integers_;
    std::vector<float> numbers_;
    std::vector<uint8_t> state_;
    int32_t format_ = 0;
    uint64_t checksum_ = 0;
    std::vector<nvinfer1::PluginField> fields_;
    nvinfer1::PluginFieldCollection collection_{};
};

class PluginV3 final : public nvinfer1::IPluginV3,
                       public nvinfer1::IPluginV3OneCore,
                       public nvinfer1::IPluginV3OneBuild,
                       public nvinfer1::IPluginV3OneRuntime
{
public:
    explicit PluginV3(Layer layer);

    // IPluginV3
    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
    PluginV3* clone() noexcept override;

    // IPluginV3OneCore
    char const* getPluginName() const noexcept override;
    char const* getPluginVersion() const noexcept override;
    char const* getPluginNamespace() const noexcept override;

    // IPluginV3OneBuild
    int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* inputs, int32_t num_inputs,
        nvinfer1::DynamicPluginTensorDesc const* outputs, int32_t num_outputs) noexcept override;
    int32_t getOutputDataTypes(nvinfer1::DataType* output_types, int32_t num_outputs,
        nvinfer1::DataType const* input_types, int32_t num_inputs) const noexcept override;
    int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t num_inputs,
        nvinfer1::DimsExprs const* shape_inputs, int32_t num_shape_inputs, nvinfer1::DimsExprs* outputs,
        int32_t num_outputs, nvinfer1::IExprBuilder& builder) noexcept override;
    bool supportsFormatCombination(int32_t position, nvinfer1::DynamicPluginTensorDesc const* tensors,
        int32_t num_inputs, int32_t num_outputs) noexcept override;
    int32_t getNbOutputs() const noexcept override;
    size_t getWorkspaceSize(nvinfer1::DynamicPluginTensorDesc const* inputs, int32_t num_inputs,
        nvinfer1::DynamicPluginTensorDesc const* outputs, int32_t num_outputs) const noexcept override;
    char const* getMetadataString() noexcept override;

    // IPluginV3OneRuntime
    int32_t onShapeChange(nvinfer1::PluginTensorDesc const* inputs, int32_t num_inputs,
        nvinfer1::PluginTensorDesc const* outputs, int32_t num_outputs) noexcept override;
    int32_t enqueue(nvinfer1::PluginTensorDesc const* input_descriptions,
        nvinfer1::PluginTensorDesc const* output_descriptions, void const* const* inputs, void* const* outputs,
        void* workspace, cudaStream_t stream) noexcept override;
    PluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
    nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept override;

private:
    Layer layer_;
    std::string metadata_;
    SerializedFields serialized_;
};

class CreatorV3 final : public nvinfer1::IPluginCreatorV3One
{
public:
    explicit CreatorV3(OperationRecord const& record);

    char const* getPluginName() const noexcept override;
    char const* getPluginVersion() const noexcept override;
    char const* getPluginNamespace() const noexcept override;
    nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override;
    PluginV3* createPlugin(char const* name, nvinfer1::PluginFieldCollection const* fields,
        nvinfer1::TensorRTPhase phase) noexcept override;

private:
    OperationRecord const& record_;
    std::vector<nvinfer1::PluginField> fields_;
    nvinfer1::PluginFieldCollection collection_;
};

} // namespace trtllm_ext::plugins

#endif
