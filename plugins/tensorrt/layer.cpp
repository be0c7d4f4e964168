#include "plugins/tensorrt/layer.h"

#include "plugins/tensorrt/guarded.h"

#include <algorithm>
#include <utility>

namespace trtllm_ext::plugins
{

namespace
{

/* Bounds that TensorRT leaves out are 0 or -1 dimensions; then the dimensions themselves count. */
Shape bound_of(nvinfer1::Dims const& bound, nvinfer1::Dims const& dims)
{
    return shape_of(bound.nbDims == dims.nbDims ? bound : dims);
}

} // namespace

Layer::Layer(std::string name, std::unique_ptr<Operation> operation)
    : name_(std::move(name))
    , operation_(std::move(operation))
{
    for (Port const& input : operation_->inputs())
    {
        data_type_of(input.type);
    }
    for (Port const& output : operation_->outputs())
    {
        data_type_of(output.type);
    }
}

Layer::Layer(Layer const& other)
    : name_(other.name_)
    , operation_(other.operation_->clone())
    , configured_(other.configured_)
{
}

nvinfer1::DataType Layer::output_type(int32_t index) const
{
    return data_type_of(operation_->outputs().at(index).type);
}

bool Layer::supports(int32_t position, nvinfer1::PluginTensorDesc const& tensor) const noexcept
{
    int32_t const num_tensors = static_cast<int32_t>(operation_->inputs().size() + operation_->outputs().size());
    return position >= 0 && position < num_tensors
        && operation_->supports(position, type_of(tensor.type), tensor.format == nvinfer1::TensorFormat::kLINEAR);
}

trtllm_ext_status Layer::configure(nvinfer1::DynamicPluginTensorDesc const* inputs, int32_t num_inputs) noexcept
{
    Shape least[MAX_TENSORS];
    Shape most[MAX_TENSORS];
    for (int32_t i = 0; i < std::min(num_inputs, MAX_TENSORS); ++i)
    {
        least[i] = bound_of(inputs[i].min, inputs[i].desc.dims);
        most[i] = bound_of(inputs[i].max, inputs[i].desc.dims);
    }
    return prepare(least, most, num_inputs);
}

trtllm_ext_status Layer::configure(nvinfer1::PluginTensorDesc const* inputs, int32_t num_inputs) noexcept
{
    Shape shapes[MAX_TENSORS];
    for (int32_t i = 0; i < std::min(num_inputs, MAX_TENSORS); ++i)
    {
        shapes[i] = shape_of(inputs[i].dims);
    }
    return prepare(shapes, shapes, num_inputs);
}

trtllm_ext_status Layer::prepare(Shape const* least, Shape const* most, int32_t num_inputs) noexcept
{
    configured_ = guarded(record().name, name_,
        [&] { operation_->prepare(operation_->sizes_of(least, num_inputs), operation_->sizes_of(most, num_inputs)); });
    return configured_;
}

trtllm_ext_status Layer::resume() noexcept
{
    if (configured_ != TRTLLM_EXT_SUCCESS)
    {
        return configured_;
    }
    return guarded(record().name, name_, [&] { operation_->resume(); });
}

trtllm_ext_status Layer::enqueue(nvinfer1::PluginTensorDesc const* descriptions, void const* const* inputs,
    void* const* outputs, void* workspace, trtllm_ext_stream stream) const noexcept
{
    return guarded(record().name, name_,
        [&]
        {
            int32_t const num_inputs = static_cast<int32_t>(operation_->inputs().size());
            Shape shapes[MAX_TENSORS];
            for (int32_t i = 0; i < num_inputs; ++i)
            {
                shapes[i] = shape_of(descriptions[i].dims);
            }
            Sizes const sizes = operation_->sizes_of(shapes, num_inputs);
            if (sizes.num_tokens != 0)
            {
                require_success(operation_->run(sizes, inputs, outputs, workspace, stream));
            }
        });
}

} // namespace trtllm_ext::plugins
