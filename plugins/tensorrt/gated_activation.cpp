#include "plugins/tensorrt/gated_activation.h"

#include "plugins/tensorrt/generated/operations.h"

#include <utility>

namespace trtllm_ext::plugins
{

GatedActivation::GatedActivation(Fields given)
    : Operation(std::move(given))
{
    trtllm_ext_type const type = type_of(fields());
    form_.size = sizeof(form_);
    form_.type = type;
    form_.activation = fields().integer("activation", TRTLLM_EXT_IDENTITY, TRTLLM_EXT_TANH);
    form_.clamp = fields().number("clamp");
    form_.gate_offset = fields().number("gate_offset");
    add_input({"fc", type});
    gate_ = add_input({"gate", type}, fields().flag("gated"));
    add_output({"output", type});
}

std::unique_ptr<Operation> GatedActivation::clone() const
{
    return std::make_unique<GatedActivation>(*this);
}

trtllm_ext_status GatedActivation::run(Sizes const& sizes, void const* const* inputs, void* const* outputs, void*,
    trtllm_ext_stream stream) const noexcept
{
    trtllm_ext_gated_activation_args args = form_;
    args.num_tokens = sizes.num_tokens;
    args.width = sizes.hidden_size;
    args.fc = inputs[0];
    args.gate = at(inputs, gate_);
    args.output = outputs[0];
    args.fc_stride = args.gate_stride = args.output_stride = sizes.hidden_size;
    return trtllm_ext_gated_activation(&args, stream);
}

} // namespace trtllm_ext::plugins
