#include "plugins/tensorrt/feed_forward_plans.h"

#include "plugins/tensorrt/refusal.h"
#include "plugins/tensorrt/tuning_memory.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace trtllm_ext::plugins
{

namespace
{

/* Held while a plan is made, so that two builders do not time their products against each other. */
std::mutex& plans_mutex()
{
    static std::mutex mutex;
    return mutex;
}

std::map<std::string, std::weak_ptr<trtllm_ext_feed_forward_plan const>>& plans()
{
    static std::map<std::string, std::weak_ptr<trtllm_ext_feed_forward_plan const>> plans;
    return plans;
}

template <typename T>
void append(std::string& key, T const& value)
{
    key.append(reinterpret_cast<char const*>(&value), sizeof(value));
}

std::string key_of(char const* kind, trtllm_ext_feed_forward_form const& form)
{
    std::string key(kind);
    append(key, form);
    append(key, current_device());
    return key;
}

std::shared_ptr<trtllm_ext_feed_forward_plan> new_plan(trtllm_ext_feed_forward_form const& form)
{
    trtllm_ext_feed_forward_plan* plan = nullptr;
    require_success(trtllm_ext_feed_forward_create(&form, &plan));
    return {plan, trtllm_ext_feed_forward_destroy};
}

/* The arguments of a run of the most tokens, in memory of the device; an area that the form has no use for is empty. */
class TuningArguments
{
public:
    TuningArguments(trtllm_ext_feed_forward_plan const& plan, trtllm_ext_feed_forward_form const& form)
    {
        int64_t const rows = form.max_num_tokens * form.hidden_size;
        int64_t const weights = form.hidden_size * form.ffn_hidden_size;
        args.size = sizeof(args);
        args.x = elements(form, rows);
        args.fc_weight = elements(form, weights);
        args.proj_weight = elements(form, weights);
        args.gate_weight = form.gated ? elements(form, weights) : nullptr;
        args.fc_bias = form.has_fc_bias ? elements(form, form.ffn_hidden_size) : nullptr;
        args.gate_bias = form.has_gate_bias ? elements(form, form.ffn_hidden_size) : nullptr;
        args.proj_bias = form.has_proj_bias ? elements(form, form.hidden_size) : nullptr;
        args.residual = form.has_residual ? elements(form, rows) : nullptr;
        args.y = elements(form, rows);
        args.x_stride = args.residual_stride = args.y_stride = form.hidden_size;
        args.workspace_size = trtllm_ext_feed_forward_workspace(&plan, form.max_num_tokens);
        areas_.emplace_back(args.workspace_size);
        args.workspace = areas_.back().data();
    }

    trtllm_ext_feed_forward_args args{};

private:
    void* elements(trtllm_ext_feed_forward_form const& form, int64_t count)
    {
        auto const type = static_cast<trtllm_ext_type>(form.type);
        areas_.emplace_back(count * (type == TRTLLM_EXT_FLOAT32 ? 4 : 2));
        areas_.back().fill(type);
        return areas_.back().data();
    }

    std::vector<TuningMemory> areas_;
};

void tune(trtllm_ext_feed_forward_plan& plan, trtllm_ext_feed_forward_form const& form, int64_t least_num_tokens)
{
    TuningArguments arguments(plan, form);
    int64_t num_tokens = std::max<int64_t>(least_num_tokens, 1);
    while (num_tokens <= form.max_num_tokens)
    {
        int64_t const bucket = trtllm_ext_feed_forward_bucket(&plan, num_tokens);
        arguments.args.num_tokens = std::min(bucket, form.max_num_tokens);
        require_success(trtllm_ext_feed_forward_tune(&plan, &arguments.args, nullptr));
        num_tokens = std::max(bucket, num_tokens) + 1;
    }
}

} // namespace

TokenRange PlannedRanges::widen(int64_t hidden_size, int64_t ffn_hidden_size, TokenRange range)
{
    std::lock_guard<std::mutex> const lock(mutex_);
    auto const place = known_.emplace(std::make_pair(hidden_size, ffn_hidden_size), Known{range, nullptr}).first;
    TokenRange& known = place->second.range;
    known = {std::min(known.least, range.least), std::max(known.most, range.most)};
    return known;
}

void PlannedRanges::keep(int64_t hidden_size, int64_t ffn_hidden_size, FeedForwardPlan plan)
{
    std::lock_guard<std::mutex> const lock(mutex_);
    known_.at({hidden_size, ffn_hidden_size}).plan = std::move(plan);
}

bool PlannedRanges::find(int64_t& hidden_size, int64_t& ffn_hidden_size, TokenRange& range) const
{
    std::lock_guard<std::mutex> const lock(mutex_);
    if (hidden_size == 0 && known_.size() == 1)
    {
        std::tie(hidden_size, ffn_hidden_size) = known_.begin()->first;
    }
    auto const place = known_.find({hidden_size, ffn_hidden_size});
    if (place == known_.end())
    {
        return false;
    }
    range = place->second.range;
    return true;
}

FeedForwardPlan tuned_plan(
    trtllm_ext_feed_forward_form const& form, int64_t least_num_tokens, std::string& remark)
{
    std::lock_guard<std::mutex> const lock(plans_mutex());
    std::string key = key_of("tuned", form);
    append(key, least_num_tokens);
    auto& place = plans()[key];
    if (FeedForwardPlan const known = place.lock())
    {
        return known;
    }
    auto const plan = new_plan(form);
    try
    {
        tune(*plan, form, least_num_tokens);
    }
    catch (Refusal const& refusal)
    {
        remark = std::string("the layer is not tuned: ") + refusal.what();
    }
    place = plan;
    return plan;
}

uint64_t workspace_by_any_plan(trtllm_ext_feed_forward_plan const& plan, trtllm_ext_feed_forward_form const& form)
{
    trtllm_ext_feed_forward_form wider = form;
    wider.max_num_tokens = 1;
    while (wider.max_num_tokens < form.max_num_tokens)
    {
        wider.max_num_tokens *= 2;
    }
    uint64_t const own = trtllm_ext_feed_forward_workspace(&plan, form.max_num_tokens);
    return wider.max_num_tokens == form.max_num_tokens
        ? own
        : std::max(own, trtllm_ext_feed_forward_workspace(new_plan(wider).get(), form.max_num_tokens));
}

FeedForwardPlan plan_of_choices(
    trtllm_ext_feed_forward_form const& form, std::vector<uint8_t> const& choices, std::string& remark)
{
    std::lock_guard<std::mutex> const lock(plans_mutex());
    std::string key = key_of("chosen", form);
    key.append(choices.begin(), choices.end());
    auto& place = plans()[key];
    if (FeedForwardPlan const known = place.lock())
    {
        return known;
    }
    auto const plan = new_plan(form);
    int32_t num_taken = 0;
    if (!choices.empty())
    {
        require_success(trtllm_ext_feed_forward_take_choices(plan.get(), choices.data(), choices.size(), &num_taken));
    }
    if (num_taken == 0)
    {
        remark = "the engine has no choices that were timed on such a device with this cublasLt; untimed ones are taken";
    }
    place = plan;
    return plan;
}

std::vector<uint8_t> choices_of(trtllm_ext_feed_forward_plan const& plan)
{
    uint64_t size = 0;
    require_success(trtllm_ext_feed_forward_choices(&plan, nullptr, &size));
    std::vector<uint8_t> choices(size);
    require_success(trtllm_ext_feed_forward_choices(&plan, choices.data(), &size));
    choices.resize(size);
    return choices;
}

} // namespace trtllm_ext::plugins
