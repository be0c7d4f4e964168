#include "plugins/tensorrt/operation.h"

#include "plugins/tensorrt/refusal.h"

#include <utility>

namespace trtllm_ext::plugins
{

namespace
{

std::string text_of(Shape const& shape)
{
    std::string text = "(";
    for (int32_t i = 0; i < shape.num_dims; ++i)
    {
        text += (i == 0 ? "" : ", ") + std::to_string(shape.dims[i]);
    }
    return text + ")";
}

[[noreturn]] void refuse(Port const& port, Shape const& shape, std::string const& expected)
{
    throw Refusal(std::string("input '") + port.name + "' is " + text_of(shape) + "; " + expected + " is expected");
}

/* Takes the value of a dimension, or compares it with the one that is known. */
bool agree(int64_t& known, int64_t value)
{
    if (known < 0)
    {
        known = value;
    }
    return value < 0 || value == known;
}

int64_t* size_of(Sizes& sizes, Extent extent)
{
    return extent == Extent::HIDDEN ? &sizes.hidden_size : &sizes.ffn_hidden_size;
}

int64_t product_of_leading(Shape const& shape)
{
    int64_t product = 1;
    for (int32_t i = 0; i + 1 < shape.num_dims; ++i)
    {
        if (shape.dims[i] < 0)
        {
            return -1;
        }
        product *= shape.dims[i];
    }
    return product;
}

void check_tokens(Port const& port, Shape const& shape, Shape const& x)
{
    bool same = shape.num_dims == x.num_dims;
    for (int32_t i = 0; same && i + 1 < x.num_dims; ++i)
    {
        same = shape.dims[i] < 0 || x.dims[i] < 0 || shape.dims[i] == x.dims[i];
    }
    if (!same)
    {
        refuse(port, shape, "the shape of the first input, " + text_of(x) + ",");
    }
}

void check_shape(Port const& port, Shape const& shape, Sizes& sizes)
{
    int32_t const num_dims = port.layout == Layout::MATRIX ? 2 : 1;
    if (port.layout != Layout::TOKENS && shape.num_dims != num_dims)
    {
        refuse(port, shape, num_dims == 2 ? "a matrix" : "a vector");
    }
    int64_t& columns = *size_of(sizes, port.columns);
    int64_t& rows = *size_of(sizes, port.rows);
    if (!agree(columns, shape.dims[shape.num_dims - 1]))
    {
        refuse(port, shape, std::to_string(columns) + " as its last dimension");
    }
    if (port.layout == Layout::MATRIX && !agree(rows, shape.dims[0]))
    {
        refuse(port, shape, std::to_string(rows) + " as its first dimension");
    }
}

} // namespace

Operation::Operation(Fields fields)
    : fields_(std::move(fields))
{
}

int32_t Operation::add_input(Port const& port, bool is_there)
{
    if (!is_there)
    {
        return -1;
    }
    if (inputs_.size() == MAX_TENSORS)
    {
        throw Refusal("more than " + std::to_string(MAX_TENSORS) + " inputs; raise MAX_TENSORS");
    }
    inputs_.push_back(port);
    return static_cast<int32_t>(inputs_.size()) - 1;
}

void Operation::add_output(Port const& port)
{
    outputs_.push_back(port);
}

trtllm_ext_type Operation::type_of(Fields const& fields)
{
    return static_cast<trtllm_ext_type>(fields.integer("type", TRTLLM_EXT_FLOAT32, TRTLLM_EXT_BFLOAT16));
}

bool Operation::supports(int32_t position, trtllm_ext_type type, bool linear) const
{
    int32_t const num_inputs = static_cast<int32_t>(inputs_.size());
    Port const& port = position < num_inputs ? inputs_.at(position) : outputs_.at(position - num_inputs);
    return linear && type == port.type;
}

Sizes Operation::sizes_of(Shape const* shapes, int32_t num_shapes) const
{
    if (num_shapes != static_cast<int32_t>(inputs_.size()))
    {
        throw Refusal(std::to_string(num_shapes) + " inputs; " + std::to_string(inputs_.size())
            + " are expected by the fields " + fields_.text());
    }
    if (shapes[0].num_dims < 1)
    {
        refuse(inputs_[0], shapes[0], "at least one dimension");
    }
    Sizes sizes;
    sizes.num_tokens = product_of_leading(shapes[0]);
    for (int32_t i = 0; i < num_shapes; ++i)
    {
        if (inputs_[i].layout == Layout::TOKENS)
        {
            check_tokens(inputs_[i], shapes[i], shapes[0]);
        }
        check_shape(inputs_[i], shapes[i], sizes);
    }
    return sizes;
}

void Operation::prepare(Sizes const&, Sizes const&)
{
    require_success(trtllm_ext_device_status());
}

void Operation::resume()
{
    require_success(trtllm_ext_device_status());
}

void Operation::take_state(std::vector<uint8_t> const& state)
{
    if (!state.empty())
    {
        throw Refusal(std::to_string(state.size()) + " bytes of state; none are expected");
    }
}

} // namespace trtllm_ext::plugins
