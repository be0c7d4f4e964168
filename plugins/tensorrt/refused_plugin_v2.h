/*
 * What stands in for a layer of an engine whose bytes are refused. TensorRT 8.6 does not look whether
 * deserializePlugin() gave anything, and ends the process where it did not; what initialize() returns it does look at.
 */
#ifndef TRTLLM_EXT_PLUGINS_REFUSED_PLUGIN_V2_H
#define TRTLLM_EXT_PLUGINS_REFUSED_PLUGIN_V2_H

#include "plugins/tensorrt/record.h"

#include <NvInferRuntime.h>

#include <string>

namespace trtllm_ext::plugins
{

class RefusedPluginV2 final : public nvinfer1::IPluginV2DynamicExt
{
public:
    RefusedPluginV2(OperationRecord const& record, std::string plugin_namespace);

    // IPluginV2
    char const* getPluginType() const noexcept override;
    char const* getPluginVersion() const noexcept override;
    int32_t getNbOutputs() const noexcept override;
    int32_t initialize() noexcept override; // fails
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
    RefusedPluginV2* clone() const noexcept override;
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
        void* workspace, cudaStream_t stream) noexcept override; // fails

private:
    OperationRecord const& record_;
    std::string namespace_;
};

} // namespace trtllm_ext::plugins

#endif
