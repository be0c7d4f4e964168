/*
 * ResidualNorm: sum = x + bias + residual; normed = norm(sum) * (weight + weight_offset) + norm_bias, or that as rows
 * of an 8-bit type with a scale each.
 * Inputs: x (..., hidden), then those that are there: residual (..., hidden), bias, weight, norm_bias (hidden).
 * Outputs: [sum (..., hidden)], then normed (..., hidden), or quantized (..., hidden) and scales (..., 1) float32.
 */
#ifndef TRTLLM_EXT_PLUGINS_RESIDUAL_NORM_H
#define TRTLLM_EXT_PLUGINS_RESIDUAL_NORM_H

#include "plugins/tensorrt/operation.h"

namespace trtllm_ext::plugins
{

class ResidualNorm final : public Operation
{
public:
    explicit ResidualNorm(Fields fields);

    std::unique_ptr<Operation> clone() const override;
    trtllm_ext_status run(Sizes const& sizes, void const* const* inputs, void* const* outputs, void* workspace,
        trtllm_ext_stream stream) const noexcept override;

private:
    void add_inputs(trtllm_ext_type type);
    void add_outputs(trtllm_ext_type type);

    trtllm_ext_residual_norm_args form_{};
    int32_t residual_ = -1;
    int32_t bias_ = -1;
    int32_t weight_ = -1;
    int32_t norm_bias_ = -1;
    bool has_sum_ = false;
};

} // namespace trtllm_ext::plugins

#endif
