#include <NvInferVersion.h>

#if NV_TENSORRT_MAJOR < 10

#include "plugins/tensorrt/refused_plugin_v2.h"

#include "plugins/kernels/trtllm_ext_kernels.h"

#include <new>
#include <utility>

namespace trtllm_ext::plugins
{

RefusedPluginV2::RefusedPluginV2(OperationRecord const& record, std::string plugin_namespace)
    : record_(record)
    , namespace_(std::move(plugin_namespace))
{
}

char const* RefusedPluginV2::getPluginType() const noexcept
{
    return record_.name;
}

char const* RefusedPluginV2::getPluginVersion() const noexcept
{
    return record_.version;
}

int32_t RefusedPluginV2::getNbOutputs() const noexcept
{
    return 1;
}

int32_t RefusedPluginV2::initialize() noexcept
{
    return TRTLLM_EXT_INVALID_ARGUMENT;
}

void RefusedPluginV2::terminate() noexcept {}

size_t RefusedPluginV2::getSerializationSize() const noexcept
{
    return 0;
}

void RefusedPluginV2::serialize(void*) const noexcept {}

void RefusedPluginV2::destroy() noexcept
{
    delete this;
}

void RefusedPluginV2::setPluginNamespace(char const*) noexcept {}

char const* RefusedPluginV2::getPluginNamespace() const noexcept
{
    return namespace_.c_str();
}

nvinfer1::DataType RefusedPluginV2::getOutputDataType(
    int32_t, nvinfer1::DataType const*, int32_t) const noexcept
{
    return nvinfer1::DataType::kFLOAT;
}

RefusedPluginV2* RefusedPluginV2::clone() const noexcept
{
    return new (std::nothrow) RefusedPluginV2(record_, namespace_);
}

nvinfer1::DimsExprs RefusedPluginV2::getOutputDimensions(
    int32_t, nvinfer1::DimsExprs const* inputs, int32_t num_inputs, nvinfer1::IExprBuilder&) noexcept
{
    return num_inputs > 0 ? inputs[0] : nvinfer1::DimsExprs{};
}

bool RefusedPluginV2::supportsFormatCombination(
    int32_t, nvinfer1::PluginTensorDesc const*, int32_t, int32_t) noexcept
{
    return false;
}

void RefusedPluginV2::configurePlugin(nvinfer1::DynamicPluginTensorDesc const*, int32_t,
    nvinfer1::DynamicPluginTensorDesc const*, int32_t) noexcept
{
}

size_t RefusedPluginV2::getWorkspaceSize(
    nvinfer1::PluginTensorDesc const*, int32_t, nvinfer1::PluginTensorDesc const*, int32_t) const noexcept
{
    return 0;
}

int32_t RefusedPluginV2::enqueue(nvinfer1::PluginTensorDesc const*, nvinfer1::PluginTensorDesc const*,
    void const* const*, void* const*, void*, cudaStream_t) noexcept
{
    return TRTLLM_EXT_INVALID_ARGUMENT;
}

} // namespace trtllm_ext::plugins

#endif
