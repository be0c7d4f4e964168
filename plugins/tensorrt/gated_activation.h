/*
 * GatedActivation: output = act(fc) [* (gate + gate_offset)], with a clamp.
 * Inputs: fc (..., width), [gate (..., width)]. Output: (..., width).
 */
#ifndef TRTLLM_EXT_PLUGINS_GATED_ACTIVATION_H
#define TRTLLM_EXT_PLUGINS_GATED_ACTIVATION_H

#include "plugins/tensorrt/operation.h"

namespace trtllm_ext::plugins
{

class GatedActivation final : public Operation
{
public:
    explicit GatedActivation(Fields fields);

    std::unique_ptr<Operation> clone() const override;
    trtllm_ext_status run(Sizes const& sizes, void const* const* inputs, void* const* outputs, void* workspace,
        trtllm_ext_stream stream) const noexcept override;

private:
    trtllm_ext_gated_activation_args form_{};
    int32_t gate_ = -1;
};

} // namespace trtllm_ext::plugins

#endif
