#include "feed_forward_roads.h"

#include "feed_forward_plan.h"
#include "status.h"

#include <algorithm>

namespace trtllm_ext::feed_forward
{

Workspace cublaslt_workspace(Form const& form, int64_t num_tokens)
{
    // The choice of a bucket is made with the scratch memory of the bucket's largest count.
    return workspace_of(form, num_tokens, form.gated != 0, scratch_limit(form, bucket_of(form, num_tokens)));
}

namespace
{

Workspace plain_workspace(Form const& form, int64_t num_tokens)
{
    return workspace_of(form, num_tokens, false, 0);
}

// What cublasLt has no algorithm for the plain kernel computes, which gives the same but for speed.
trtllm_ext_status run_product(CublasLtProduct const& product, ProductArgs const& args, trtllm_ext_stream stream)
{
    cublaslt::Status const status = product.run(args, stream);
    if (status == cublaslt::SUCCESS)
    {
        return TRTLLM_EXT_SUCCESS;
    }
    // What cublasLt tried may have left a CUDA error behind, which the next call would be blamed for.
    (void) cudaGetLastError();
    if (is_refusal(status))
    {
        return plain_product(product.product(), args, stream);
    }
    return fail(TRTLLM_EXT_CUBLAS_FAILURE, "feed_forward: cublasLt %s answers %s to a product of %lld tokens",
        product.library().file.c_str(), cublaslt::name_of(status).c_str(), static_cast<long long>(args.num_tokens));
}

trtllm_ext_status activate_apart(
    Form const& form, Args const& args, Workspace const& workspace, trtllm_ext_stream stream)
{
    trtllm_ext_gated_activation_args apart{};
    apart.size = sizeof apart;
    apart.type = form.type;
    apart.activation = form.activation;
    apart.clamp = form.clamp;
    apart.gate_offset = form.gate_offset;
    apart.num_tokens = args.num_tokens;
    apart.width = form.ffn_hidden_size;
    apart.fc = apart.output = args.workspace;
    apart.gate = form.gated ? static_cast<char*>(args.workspace) + workspace.gate : nullptr;
    apart.fc_bias = args.fc_bias;
    apart.gate_bias = args.gate_bias;
    apart.fc_stride = apart.gate_stride = apart.output_stride = workspace.inner_stride;
    return trtllm_ext_gated_activation(&apart, stream);
}

trtllm_ext_status run_by_cublaslt(Plan const& plan, Args const& args, trtllm_ext_stream stream)
{
    Workspace const workspace = cublaslt_workspace(plan.form, args.num_tokens);
    ProductArgs inner = inner_args(plan.form, args, workspace);
    TRTLLM_EXT_CHECK(run_product(plan.cublaslt->inner, inner, stream));
    if (plan.form.gated)
    {
        inner.weight = args.gate_weight;
        inner.y = static_cast<char*>(args.workspace) + workspace.gate;
        TRTLLM_EXT_CHECK(run_product(plan.cublaslt->inner, inner, stream));
    }
    if (activates_apart(plan.form))
    {
        TRTLLM_EXT_CHECK(activate_apart(plan.form, args, workspace, stream));
    }
    return run_product(plan.cublaslt->outer, outer_args(args, workspace), stream);
}

trtllm_ext_status run_plainly(Plan const& plan, Args const& args, trtllm_ext_stream stream)
{
    Workspace const workspace = plain_workspace(plan.form, args.num_tokens);
    TRTLLM_EXT_CHECK(plain_product(whole_inner_product(plan.form), whole_inner_args(args, workspace), stream));
    return plain_product(outer_product(plan.form), outer_args(args, workspace), stream);
}

// In the order of preference: the first that suits a run computes it. The last one suits everything.
Road const roads[] = {
    {"cublaslt", true, [](Form const&, int64_t, Machine const& machine) { return machine.has_cublaslt; },
        [](Form const& form, int64_t num_tokens) { return cublaslt_workspace(form, num_tokens).size; },
        run_by_cublaslt},
    {"plain", false, [](Form const&, int64_t, Machine const&) { return true; },
        [](Form const& form, int64_t num_tokens) { return plain_workspace(form, num_tokens).size; }, run_plainly},
};

} // namespace

Road const& choose_road(Form const& form, int64_t num_tokens, Machine const& machine)
{
    return *std::find_if(std::begin(roads), std::end(roads) - 1,
        [&](Road const& road) { return road.suits(form, num_tokens, machine); });
}

uint64_t largest_workspace(Form const& form, int64_t num_tokens, Machine const& machine)
{
    // An engine keeps this number, and may be built where cublasLt is missing and run where it is there.
    Machine const elsewhere{machine.device, true};
    // A road takes over at a token count of its own: any that is a run's at this count or at a half of it counts.
    uint64_t largest = 0;
    for (int64_t count = num_tokens; count >= 1; count /= 2)
    {
        for (Machine const& each : {machine, elsewhere})
        {
            largest = std::max(largest, choose_road(form, count, each).workspace(form, num_tokens));
        }
    }
    return largest;
}

} // namespace trtllm_ext::feed_forward
