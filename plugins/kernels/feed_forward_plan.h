// A plan: a form, the device it belongs to, and cublasLt's part where that was found.
#ifndef TRTLLM_EXT_FEED_FORWARD_PLAN_H
#define TRTLLM_EXT_FEED_FORWARD_PLAN_H

#include "feed_forward_cublaslt.h"
#include "feed_forward_form.h"
#include "feed_forward_roads.h"

#include <memory>
#include <string>

namespace trtllm_ext::feed_forward
{

struct CublasLtProducts
{
    CublasLtProduct inner; // fc, and the gate
    CublasLtProduct outer; // proj
};

// The operands of the products in a run, named as the products are. u lies where the workspace begins.
ProductArgs whole_inner_args(Args const& args, Workspace const& workspace);
ProductArgs inner_args(Form const& form, Args const& args, Workspace const& workspace);
ProductArgs outer_args(Args const& args, Workspace const& workspace);

/*
 * The operands that a bucket's algorithms are chosen for: as many tokens as end the bucket, rows without gaps, 16-byte
 * alignment. Nobody follows their pointers.
 */
ProductArgs planned_inner_args(Form const& form, int64_t bucket);
ProductArgs planned_outer_args(Form const& form, int64_t bucket);

// The workspace of a run by cublasLt.
Workspace cublaslt_workspace(Form const& form, int64_t num_tokens);

// A status and its sentence unless the arguments are a run of this plan on the current device. Not for zero tokens.
trtllm_ext_status check_run(Plan const& plan, Args const& args);

} // namespace trtllm_ext::feed_forward

struct trtllm_ext_feed_forward_plan
{
    trtllm_ext::feed_forward::Form form;
    trtllm_ext::feed_forward::Machine machine;
    std::string device_name;
    std::string no_cublaslt; // why `cublaslt` is NULL
    std::unique_ptr<trtllm_ext::feed_forward::CublasLtProducts> cublaslt;
};

#endif
