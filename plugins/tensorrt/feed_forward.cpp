#include "plugins/tensorrt/feed_forward.h"

#include "plugins/tensorrt/bytes.h"
#include "plugins/tensorrt/generated/operations.h"
#include "plugins/tensorrt/logging.h"
#include "plugins/tensorrt/refusal.h"

#include <algorithm>
#include <utility>

namespace trtllm_ext::plugins
{

namespace
{

trtllm_ext_feed_forward_form form_of(Fields const& fields, trtllm_ext_type type)
{
    trtllm_ext_feed_forward_form form{};
    form.size = sizeof(form);
    form.type = type;
    form.activation = fields.integer("activation", TRTLLM_EXT_IDENTITY, TRTLLM_EXT_TANH);
    form.gated = fields.flag("gated");
    form.has_fc_bias = fields.flag("has_fc_bias");
    form.has_gate_bias = fields.flag("has_gate_bias");
    form.has_proj_bias = fields.flag("has_proj_bias");
    form.has_residual = fields.flag("has_residual");
    form.tf32 = fields.flag("tf32");
    form.clamp = fields.number("clamp");
    form.gate_offset = fields.number("gate_offset");
    if (form.has_gate_bias && !form.gated)
    {
        throw Refusal("field 'has_gate_bias' is 1 and 'gated' is 0; a gate's bias needs a gate");
    }
    return form;
}

Refusal too_many(int64_t num_tokens, int64_t planned)
{
    return Refusal(TRTLLM_EXT_TOO_MANY_TOKENS,
        std::to_string(num_tokens) + " tokens; the layer was planned for at most " + std::to_string(planned)
            + ". Raise the field max_num_tokens, or the largest shape of the profile, and build again");
}

void warn(std::string const& remark)
{
    if (!remark.empty())
    {
        log_warning("FeedForward: " + remark);
    }
}

} // namespace

FeedForward::FeedForward(Fields given)
    : Operation(std::move(given))
    , ranges_(std::make_shared<PlannedRanges>())
{
    trtllm_ext_type const type = type_of(fields());
    trtllm_ext_feed_forward_form const form = form_of(fields(), type);
    planned_.form = form;
    add_input({"x", type});
    add_input({"fc_weight", type, Layout::MATRIX, Extent::HIDDEN, Extent::FFN});
    add_input({"proj_weight", type, Layout::MATRIX, Extent::FFN, Extent::HIDDEN});
    gate_weight_ = add_input({"gate_weight", type, Layout::MATRIX, Extent::HIDDEN, Extent::FFN}, form.gated);
    fc_bias_ = add_input({"fc_bias", type, Layout::VECTOR, Extent::FFN}, form.has_fc_bias);
    gate_bias_ = add_input({"gate_bias", type, Layout::VECTOR, Extent::FFN}, form.has_gate_bias);
    proj_bias_ = add_input({"proj_bias", type, Layout::VECTOR, Extent::HIDDEN}, form.has_proj_bias);
    residual_ = add_input({"residual", type}, form.has_residual);
    add_output({"y", type});
}

std::unique_ptr<Operation> FeedForward::clone() const
{
    return std::make_unique<FeedForward>(*this);
}

TokenRange FeedForward::range_to_plan(Sizes const& least, Sizes const& most) const
{
    int64_t const wanted = fields().integer("max_num_tokens", 0, INT32_MAX);
    if (wanted == 0 && most.num_tokens < 0)
    {
        throw Refusal("the number of tokens has no upper bound: give an optimization profile, or max_num_tokens");
    }
    if (wanted > 0 && most.num_tokens > wanted)
    {
        throw too_many(most.num_tokens, wanted);
    }
    return {std::max<int64_t>(least.num_tokens, 1), std::max({wanted, most.num_tokens, int64_t(1)})};
}

void FeedForward::prepare(Sizes const& least, Sizes const& most)
{
    Operation::prepare(least, most);
    if (most.hidden_size < 0 || most.ffn_hidden_size < 0)
    {
        throw Refusal("hidden_size and ffn_hidden_size are not known; the weights' shapes are to be constant");
    }
    if (in_engine_)
    {
        check_engine(most);
        resume();
        return;
    }
    TokenRange const range = ranges_->widen(most.hidden_size, most.ffn_hidden_size, range_to_plan(least, most));
    planned_ = planned_for(most.hidden_size, most.ffn_hidden_size, range);
    ranges_->keep(most.hidden_size, most.ffn_hidden_size, planned_.plan);
}

FeedForward::Planned FeedForward::planned_for(int64_t hidden_size, int64_t ffn_hidden_size, TokenRange range) const
{
    trtllm_ext_feed_forward_form const& known = planned_.form;
    bool const same_weights = known.hidden_size == hidden_size && known.ffn_hidden_size == ffn_hidden_size;
    if (planned_.plan && same_weights && known.max_num_tokens == range.most && planned_.least_num_tokens == range.least)
    {
        return planned_;
    }
    Planned planned;
    planned.form = known;
    planned.form.hidden_size = hidden_size;
    planned.form.ffn_hidden_size = ffn_hidden_size;
    planned.form.max_num_tokens = range.most;
    planned.least_num_tokens = range.least;
    std::string remark;
    planned.plan = tuned_plan(planned.form, range.least, remark);
    planned.workspace_size = workspace_by_any_plan(*planned.plan, planned.form);
    warn(remark);
    return planned;
}

void FeedForward::check_engine(Sizes const& most) const
{
    trtllm_ext_feed_forward_form const& form = planned_.form;
    if (most.hidden_size != form.hidden_size || most.ffn_hidden_size != form.ffn_hidden_size)
    {
        throw Refusal("weights of hidden_size " + std::to_string(most.hidden_size) + " and ffn_hidden_size "
            + std::to_string(most.ffn_hidden_size) + "; the engine was built for " + std::to_string(form.hidden_size)
            + " and " + std::to_string(form.ffn_hidden_size));
    }
    if (most.num_tokens > form.max_num_tokens)
    {
        throw too_many(most.num_tokens, form.max_num_tokens);
    }
}

void FeedForward::resume()
{
    Operation::resume();
    if (in_engine_ && !planned_.plan)
    {
        std::string remark;
        planned_.plan = plan_of_choices(planned_.form, choices_, remark);
        warn(remark);
    }
}

uint64_t FeedForward::workspace_size() const noexcept
{
    return planned_.workspace_size;
}

trtllm_ext_status FeedForward::run(Sizes const& sizes, void const* const* inputs, void* const* outputs, void* workspace,
    trtllm_ext_stream stream) const noexcept
{
    trtllm_ext_feed_forward_args args{};
    args.size = sizeof(args);
    args.num_tokens = sizes.num_tokens;
    args.x = inputs[0];
    args.fc_weight = inputs[1];
    args.proj_weight = inputs[2];
    args.gate_weight = at(inputs, gate_weight_);
    args.fc_bias = at(inputs, fc_bias_);
    args.gate_bias = at(inputs, gate_bias_);
    args.proj_bias = at(inputs, proj_bias_);
    args.residual = at(inputs, residual_);
    args.y = outputs[0];
    args.x_stride = args.residual_stride = args.y_stride = sizes.hidden_size;
    args.workspace = workspace;
    args.workspace_size = planned_.workspace_size;
    return trtllm_ext_feed_forward(planned_.plan.get(), &args, stream);
}

std::vector<uint8_t> FeedForward::state() const
{
    Planned planned = planned_;
    TokenRange range{};
    if (!in_engine_ && ranges_->find(planned.form.hidden_size, planned.form.ffn_hidden_size, range))
    {
        planned = planned_for(planned.form.hidden_size, planned.form.ffn_hidden_size, range);
    }
    Writer writer;
    writer.number(planned.form.hidden_size);
    writer.number(planned.form.ffn_hidden_size);
    writer.number(planned.form.max_num_tokens);
    writer.number(planned.workspace_size);
    writer.bytes(planned.plan ? choices_of(*planned.plan) : choices_);
    return writer.take();
}

void FeedForward::take_state(std::vector<uint8_t> const& state)
{
    Reader reader(state.data(), state.size());
    planned_.form.hidden_size = reader.number<int64_t>();
    planned_.form.ffn_hidden_size = reader.number<int64_t>();
    planned_.form.max_num_tokens = reader.number<int64_t>();
    planned_.workspace_size = reader.number<uint64_t>();
    choices_ = reader.bytes();
    reader.end();
    if (planned_.form.max_num_tokens <= 0)
    {
        throw Refusal("a layer that was kept before it was planned; build the engine again");
    }
    in_engine_ = true;
}

} // namespace trtllm_ext::plugins
