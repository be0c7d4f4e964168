/*
 * A layer in a network or an engine: an operation, its name there, and what both plugin interfaces ask of it. Nothing
 * here throws once it is made; what goes wrong is logged with the operation and the layer's name.
 */
#ifndef TRTLLM_EXT_PLUGINS_LAYER_H
#define TRTLLM_EXT_PLUGINS_LAYER_H

#include "plugins/tensorrt/operation.h"
#include "plugins/tensorrt/translate.h"

#include <memory>
#include <string>

namespace trtllm_ext::plugins
{

class Layer
{
public:
    /* Throws Refusal for a type that this TensorRT does not have. */
    Layer(std::string name, std::unique_ptr<Operation> operation);
    Layer(Layer const& other);

    Operation const& operation() const
    {
        return *operation_;
    }

    Operation& operation()
    {
        return *operation_;
    }

    OperationRecord const& record() const
    {
        return operation_->fields().record();
    }

    std::string const& name() const
    {
        return name_;
    }

    int32_t num_outputs() const
    {
        return static_cast<int32_t>(operation_->outputs().size());
    }

    nvinfer1::DataType output_type(int32_t index) const;

    bool supports(int32_t position, nvinfer1::PluginTensorDesc const& tensor) const noexcept;

    /* Gets ready for shapes between the bounds given; those of a dimension that has none are its value. */
    trtllm_ext_status configure(nvinfer1::DynamicPluginTensorDesc const* inputs, int32_t num_inputs) noexcept;

    /* Gets ready for these very shapes. */
    trtllm_ext_status configure(nvinfer1::PluginTensorDesc const* inputs, int32_t num_inputs) noexcept;

    /* Gets ready for what the engine's state says; the status of the last `configure` where that did not succeed. */
    trtllm_ext_status resume() noexcept;

    trtllm_ext_status enqueue(nvinfer1::PluginTensorDesc const* descriptions, void const* const* inputs,
        void* const* outputs, void* workspace, trtllm_ext_stream stream) const noexcept;

private:
    trtllm_ext_status prepare(Shape const* least, Shape const* most, int32_t num_inputs) noexcept;

    std::string name_;
    std::unique_ptr<Operation> operation_;
    trtllm_ext_status configured_ = TRTLLM_EXT_SUCCESS;
};

} // namespace trtllm_ext::plugins

#endif
