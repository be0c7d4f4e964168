/*
 * Plans of feed-forward layers: made once for a form and a device, and shared by all layers of that form, so that a
 * stack of equal layers is tuned once.
 */
#ifndef TRTLLM_EXT_PLUGINS_FEED_FORWARD_PLANS_H
#define TRTLLM_EXT_PLUGINS_FEED_FORWARD_PLANS_H

#include "plugins/kernels/trtllm_ext_kernels.h"

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace trtllm_ext::plugins
{

/* Numbers of tokens, both included. */
struct TokenRange
{
    int64_t least;
    int64_t most;
};

/* Not changed any more once it is handed out: any number of threads may run it. */
using FeedForwardPlan = std::shared_ptr<trtllm_ext_feed_forward_plan const>;

/*
 * What the clones of one layer have been asked to plan for, by the sizes of the weights. A builder may configure one
 * clone for each profile and serialise another: whichever it keeps is to run all of them. The last plan is kept as well:
 * the clone that made it may be gone when another is serialised, twice (for the size, and for the bytes), and timing
 * again would give other choices.
 */
class PlannedRanges
{
public:
    /* The range so far with this one. */
    TokenRange widen(int64_t hidden_size, int64_t ffn_hidden_size, TokenRange range);

    /* Has the plan for the range so far live as long as the clones do. */
    void keep(int64_t hidden_size, int64_t ffn_hidden_size, FeedForwardPlan plan);

    /* The range for these sizes, or for the only sizes there are where these are 0, which it fills in. */
    bool find(int64_t& hidden_size, int64_t& ffn_hidden_size, TokenRange& range) const;

private:
    struct Known
    {
        TokenRange range;
        FeedForwardPlan plan;
    };

    mutable std::mutex mutex_;
    std::map<std::pair<int64_t, int64_t>, Known> known_;
};

/*
 * A plan of this form, tuned for the buckets of least_num_tokens to form.max_num_tokens. Timing takes memory of the
 * device for the time that it lasts; where there is too little, or no cublasLt, the plan is not tuned, and `remark` says
 * so to whom it is made for. Throws Refusal.
 */
FeedForwardPlan tuned_plan(trtllm_ext_feed_forward_form const& form, int64_t least_num_tokens, std::string& remark);

/*
 * Bytes of workspace for runs of up to form.max_num_tokens by this plan, and by one that another clone of the layer
 * makes for more tokens: the bucket of the last of these runs is larger there, and so is its scratch memory.
 */
uint64_t workspace_by_any_plan(trtllm_ext_feed_forward_plan const& plan, trtllm_ext_feed_forward_form const& form);

/* A plan of this form with choices that were made in a build. Choices for another machine are left aside. */
FeedForwardPlan plan_of_choices(
    trtllm_ext_feed_forward_form const& form, std::vector<uint8_t> const& choices, std::string& remark);

/* The choices of a plan as bytes. */
std::vector<uint8_t> choices_of(trtllm_ext_feed_forward_plan const& plan);

} // namespace trtllm_ext::plugins

#endif
