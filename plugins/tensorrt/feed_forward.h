/*
 * FeedForward: y = act(x fc^T + fc_bias) [* (x gate^T + gate_bias)] proj^T + proj_bias (+ residual).
 * Inputs: x (..., hidden), fc_weight (ffn, hidden), proj_weight (hidden, ffn), then those that are there: gate_weight
 * (ffn, hidden), fc_bias, gate_bias (ffn), proj_bias (hidden), residual (..., hidden). Output: y (..., hidden).
 *
 * A layer plans in the build for the most tokens of its profiles (or its field max_num_tokens) and keeps the plan's
 * choices with the engine; in an engine more tokens than that are refused.
 */
#ifndef TRTLLM_EXT_PLUGINS_FEED_FORWARD_H
#define TRTLLM_EXT_PLUGINS_FEED_FORWARD_H

#include "plugins/tensorrt/feed_forward_plans.h"
#include "plugins/tensorrt/operation.h"

namespace trtllm_ext::plugins
{

class FeedForward final : public Operation
{
public:
    explicit FeedForward(Fields fields);

    std::unique_ptr<Operation> clone() const override;
    void prepare(Sizes const& least, Sizes const& most) override;
    uint64_t workspace_size() const noexcept override;
    trtllm_ext_status run(Sizes const& sizes, void const* const* inputs, void* const* outputs, void* workspace,
        trtllm_ext_stream stream) const noexcept override;
    void resume() override;
    std::vector<uint8_t> state() const override;
    void take_state(std::vector<uint8_t> const& state) override;

private:
    /* A plan, and what it was made for. Without one, form.hidden_size and form.max_num_tokens are 0. */
    struct Planned
    {
        trtllm_ext_feed_forward_form form{};
        int64_t least_num_tokens = 0; // what it was tuned from
        uint64_t workspace_size = 0;
        FeedForwardPlan plan;
    };

    TokenRange range_to_plan(Sizes const& least, Sizes const& most) const;
    Planned planned_for(int64_t hidden_size, int64_t ffn_hidden_size, TokenRange range) const;
    void check_engine(Sizes const& most) const;

    Planned planned_;
    bool in_engine_ = false;
    std::vector<uint8_t> choices_;          // of an engine
    std::shared_ptr<PlannedRanges> ranges_; // of a build, shared by clones

    int32_t gate_weight_ = -1;
    int32_t fc_bias_ = -1;
    int32_t gate_bias_ = -1;
    int32_t proj_bias_ = -1;
    int32_t residual_ = -1;
};

} // namespace trtllm_ext::plugins

#endif
