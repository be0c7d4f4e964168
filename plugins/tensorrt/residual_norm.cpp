#include "plugins/tensorrt/residual_norm.h"

#include "plugins/tensorrt/generated/operations.h"
#include "plugins/tensorrt/refusal.h"

#include <utility>

namespace trtllm_ext::plugins
{

namespace
{

void check(trtllm_ext_residual_norm_args const& form, bool has_sum)
{
    bool const quantized = form.quantized_type != TRTLLM_EXT_NO_TYPE;
    if (quantized && form.quantized_type != TRTLLM_EXT_INT8 && form.quantized_type != TRTLLM_EXT_FLOAT8_E4M3)
    {
        throw Refusal("field 'quantized_type' is " + std::to_string(form.quantized_type)
            + "; 0 (none), 4 (int8) or 5 (float8 e4m3) is expected");
    }
    if (form.norm == TRTLLM_EXT_NO_NORM && (quantized || !has_sum))
    {
        throw Refusal("field 'norm' is 0, so the sum is the only output: has_sum=1 and quantized_type=0 are expected");
    }
    if (form.norm != TRTLLM_EXT_NO_NORM && !(form.eps > 0))
    {
        throw Refusal("field 'eps' is " + std::to_string(form.eps) + "; a number above 0 is expected");
    }
}

} // namespace

ResidualNorm::ResidualNorm(Fields given)
    : Operation(std::move(given))
{
    trtllm_ext_type const type = type_of(fields());
    form_.size = sizeof(form_);
    form_.type = type;
    form_.norm = fields().integer("norm", TRTLLM_EXT_NO_NORM, TRTLLM_EXT_RMS_NORM);
    form_.rounding = fields().integer("rounding", TRTLLM_EXT_AFTER_WEIGHT, TRTLLM_EXT_BEFORE_WEIGHT);
    form_.quantized_type = fields().integer("quantized_type");
    form_.eps = fields().number("eps");
    form_.weight_offset = fields().number("weight_offset");
    has_sum_ = fields().flag("has_sum");
    check(form_, has_sum_);
    add_inputs(type);
    add_outputs(type);
}

void ResidualNorm::add_inputs(trtllm_ext_type type)
{
    auto const vector = [&](char const* name)
    { return Port{name, type, Layout::VECTOR}; };
    auto const rows = [&](char const* name) { return Port{name, type}; };
    add_input(rows("x"));
    residual_ = add_input(rows("residual"), fields().flag("has_residual"));
    bias_ = add_input(vector("bias"), fields().flag("has_bias"));
    weight_ = add_input(vector("weight"), fields().flag("has_weight"));
    norm_bias_ = add_input(vector("norm_bias"), fields().flag("has_norm_bias"));
}

void ResidualNorm::add_outputs(trtllm_ext_type type)
{
    if (has_sum_)
    {
        add_output({"sum", type});
    }
    if (form_.quantized_type != TRTLLM_EXT_NO_TYPE)
    {
        auto const quantized_type = static_cast<trtllm_ext_type>(form_.quantized_type);
        add_output({"quantized", quantized_type});
        add_output({"scales", TRTLLM_EXT_FLOAT32, Layout::TOKENS, Extent::ONE});
    }
    else if (form_.norm != TRTLLM_EXT_NO_NORM)
    {
        add_output({"normed", type});
    }
}

std::unique_ptr<Operation> ResidualNorm::clone() const
{
    return std::make_unique<ResidualNorm>(*this);
}

trtllm_ext_status ResidualNorm::run(Sizes const& sizes, void const* const* inputs, void* const* outputs, void*,
    trtllm_ext_stream stream) const noexcept
{
    trtllm_ext_residual_norm_args args = form_;
    args.num_tokens = sizes.num_tokens;
    args.hidden_size = sizes.hidden_size;
    args.x = inputs[0];
    args.residual = at(inputs, residual_);
    args.bias = at(inputs, bias_);
    args.weight = at(inputs, weight_);
    args.norm_bias = at(inputs, norm_bias_);
    args.sum = has_sum_ ? *outputs++ : nullptr;
    if (args.quantized_type != TRTLLM_EXT_NO_TYPE)
    {
        args.quantized = outputs[0];
        args.scales = static_cast<float*>(outputs[1]);
    }
    else if (args.norm != TRTLLM_EXT_NO_NORM)
    {
        args.normed = outputs[0];
    }
    args.x_stride = args.residual_stride = args.sum_stride = sizes.hidden_size;
    args.normed_stride = args.quantized_stride = sizes.hidden_size;
    return trtllm_ext_residual_norm(&args, stream);
}

} // namespace trtllm_ext::plugins
