/*
 * The ways to compute a feed-forward sublayer, in the order of preference. Each is one entry of the table in
 * feed_forward_roads.cpp: what it suits, what workspace it needs, how it runs. A new way is a new entry, and its files.
 */
#ifndef TRTLLM_EXT_FEED_FORWARD_ROADS_H
#define TRTLLM_EXT_FEED_FORWARD_ROADS_H

#include "device_facts.h"
#include "feed_forward_form.h"

namespace trtllm_ext::feed_forward
{

using Plan = trtllm_ext_feed_forward_plan;
using Args = trtllm_ext_feed_forward_args;

// What the choice depends on besides form and token count.
struct Machine
{
    DeviceFacts device;
    bool has_cublaslt;
};

struct Road
{
    char const* name;
    bool is_tuned; // whether trtllm_ext_feed_forward_tune has something to choose on it
    bool (*suits)(Form const& form, int64_t num_tokens, Machine const& machine);
    uint64_t (*workspace)(Form const& form, int64_t num_tokens); // bytes; never falls with the token count
    trtllm_ext_status (*run)(Plan const& plan, Args const& args, trtllm_ext_stream stream); // of checked arguments
};

// The road of a run; num_tokens from 1 on.
Road const& choose_road(Form const& form, int64_t num_tokens, Machine const& machine);

// Bytes for any run of at most this many tokens.
uint64_t largest_workspace(Form const& form, int64_t num_tokens, Machine const& machine);

} // namespace trtllm_ext::feed_forward

#endif
