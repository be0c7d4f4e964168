/* The operations as plugins of TensorRT 8: IPluginV2DynamicExt and its creator, one class each for all operations. */
#ifndef TRTLLM_EXT_PLUGINS_PLUGIN_V2_H
#define TRTLLM_EXT_PLUGINS_PLUGIN_V2_H

#include "plugins/tensorrt/layer.h"

#include <string>
#include <vector>

namespace trtllm_ext::plugins
{

class PluginV2 final : public nvinfer1::IPluginV2DynamicExt
{
public:
    PluginV2(Layer layer, std::string plugin_namespace);

    // IPluginV2
    char const* getPluginType() const noexcept override;
    char const* getPluginVersion() const noexcept override;
    int32_t getNbOutputs() const noexcept override;
    int32_t initialize() noexcept override;
    void terminate() noexcept override;
    size_t getSerializationSize() const noexcept override;
    void serialize(void* buffer) const noexcept override;
    void destroy() noexcept override;
    void setPluginNamespace(char const* plugin_namespace) noexcept override;
    char const* getPluginNamespace() const noexcept override;

    // IPluginV2Ext
    nvinfer1::DataType getOutputDataType(
        int32_t index, nvinfer1::DataType const* input_types, int32_t num_inputs) const noexcept override;

    // IPluginV2DynamicExt
    PluginV2* clone() const noexcept override;
    nvinfer1::DimsExprs getOutputDimensions(int32_t index, nvinfer1::DimsExprs const* inputs, int32_t num_inputs,
        nvinfer1::IExprBuilder& builder) noexcept override;
    bool supportsFormatCombination(int32_t position, nvinfer1::PluginTensorDesc const* tensors, int32_t num_inputs,
        int32_t num_outputs) noexcept override;
    void configurePlugin(nvinfer1::DynamicPluginTensorDesc const* inputs, int32_t num_inputs,
        nvinfer1::DynamicPluginTensorDesc const* outputs, int32_t num_outputs) noexcept override;
    size_t getWorkspaceSize(nvinfer1::PluginTensorDesc const* inputs, int32_t num_inputs,
        nvinfer1::PluginTensorDesc const* outputs, int32_t num_outputs) const noexcept override;
    int32_t enqueue(nvinfer1::PluginTensorDesc const* input_descriptions,
        nvinfer1::PluginTensorDesc const* output_descriptions, void const* const* inputs, void* const* outputs,
        void* workspace, cudaStream_t stream) noexcept override;

private:
    Layer layer_;
    std::string namespace_;
};

class CreatorV2 final : public nvinfer1::IPluginCreator
{
public:
    explicit CreatorV2(OperationRecord const& record);

    char const* getPluginName() const noexcept override;
    char const* getPluginVersion() const noexcept override;
    nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override;
    PluginV2* createPlugin(char const* name, nvinfer1::PluginFieldCollection const* fields) noexcept override;
    nvinfer1::IPluginV2DynamicExt* deserializePlugin(char const* name, void const* data, size_t size) noexcept override;
    void setPluginNamespace(char const* plugin_namespace) noexcept override;
    char const* getPluginNamespace() const noexcept override;

private:
    OperationRecord const& record_;
    std::vector<nvinfer1::PluginField> fields_;
    nvinfer1::PluginFieldCollection collection_;
    std::string namespace_;
};

} // namespace trtllm_ext::plugins

#endif
