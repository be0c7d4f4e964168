#include "feed_forward_plan.h"

#include "arguments.h"

namespace trtllm_ext::feed_forward
{
namespace
{

constexpr char const* call = "feed_forward";

char* at(void* begin, uint64_t offset)
{
    return static_cast<char*>(begin) + offset;
}

// NULL exactly where the form says that the operand is not there.
trtllm_ext_status check_presence(char const* name, char const* field, bool expected, void const* data)
{
    if (expected == (data != nullptr))
    {
        return TRTLLM_EXT_SUCCESS;
    }
    return fail(TRTLLM_EXT_INVALID_ARGUMENT, "%s: %s is %s, and the plan's form has %s %d", call, name,
        data == nullptr ? "NULL" : "given", field, expected ? 1 : 0);
}

trtllm_ext_status check_operands(Form const& form, Args const& args)
{
    TRTLLM_EXT_CHECK(check_given(call, "x", args.x));
    TRTLLM_EXT_CHECK(check_given(call, "fc_weight", args.fc_weight));
    TRTLLM_EXT_CHECK(check_given(call, "proj_weight", args.proj_weight));
    TRTLLM_EXT_CHECK(check_given(call, "y", args.y));
    TRTLLM_EXT_CHECK(check_presence("gate_weight", "gated", form.gated != 0, args.gate_weight));
    TRTLLM_EXT_CHECK(check_presence("fc_bias", "has_fc_bias", form.has_fc_bias != 0, args.fc_bias));
    TRTLLM_EXT_CHECK(check_presence("gate_bias", "has_gate_bias", form.has_gate_bias != 0, args.gate_bias));
    TRTLLM_EXT_CHECK(check_presence("proj_bias", "has_proj_bias", form.has_proj_bias != 0, args.proj_bias));
    return check_presence("residual", "has_residual", form.has_residual != 0, args.residual);
}

trtllm_ext_status check_memory(Form const& form, Args const& args)
{
    int const element = size_of_type(form.type);
    MatrixArgument const x{"x", args.x, args.x_stride, element};
    MatrixArgument const residual{"residual", args.residual, args.residual_stride, element};
    MatrixArgument const y{"y", args.y, args.y_stride, element};
    for (MatrixArgument const& matrix : {x, residual, y})
    {
        TRTLLM_EXT_CHECK(check_matrix(call, matrix, args.num_tokens, form.hidden_size));
    }
    VectorArgument const vectors[] = {{"fc_weight", args.fc_weight, element}, {"fc_bias", args.fc_bias, element},
        {"gate_weight", args.gate_weight, element}, {"gate_bias", args.gate_bias, element},
        {"proj_weight", args.proj_weight, element}, {"proj_bias", args.proj_bias, element}};
    for (VectorArgument const& vector : vectors)
    {
        TRTLLM_EXT_CHECK(check_vector(call, vector));
    }
    TRTLLM_EXT_CHECK(check_apart(call, y, x, args.num_tokens, form.hidden_size, false));
    return check_apart(call, y, residual, args.num_tokens, form.hidden_size, true);
}

trtllm_ext_status check_workspace(Args const& args, uint64_t needed)
{
    TRTLLM_EXT_CHECK(check_given(call, "workspace", args.workspace));
    if (reinterpret_cast<uintptr_t>(args.workspace) % workspace_alignment != 0)
    {
        return fail(TRTLLM_EXT_INVALID_ARGUMENT, "%s: the workspace is at %p; it must be at a multiple of %d bytes",
            call, args.workspace, static_cast<int>(workspace_alignment));
    }
    if (args.workspace_size < needed)
    {
        return fail(TRTLLM_EXT_WORKSPACE_TOO_SMALL,
            "%s: the workspace has %llu bytes; a run of %lld tokens needs %llu (trtllm_ext_feed_forward_workspace)",
            call, static_cast<unsigned long long>(args.workspace_size), static_cast<long long>(args.num_tokens),
            static_cast<unsigned long long>(needed));
    }
    return TRTLLM_EXT_SUCCESS;
}

Args planned_run(Form const& form, int64_t num_tokens)
{
    void* const somewhere = reinterpret_cast<void*>(uintptr_t{planned_alignment});
    Args args{};
    args.size = sizeof args;
    args.num_tokens = num_tokens;
    args.x = args.fc_weight = args.gate_weight = args.proj_weight = somewhere;
    args.fc_bias = args.gate_bias = args.proj_bias = args.residual = somewhere;
    args.y = args.workspace = somewhere;
    args.x_stride = args.residual_stride = args.y_stride = form.hidden_size;
    return args;
}

} // namespace

ProductArgs whole_inner_args(Args const& args, Workspace const& workspace)
{
    ProductArgs inner{};
    inner.num_tokens = args.num_tokens;
    inner.x = args.x;
    inner.x_stride = args.x_stride;
    inner.weight = args.fc_weight;
    inner.bias = args.fc_bias;
    inner.gate_weight = args.gate_weight;
    inner.gate_bias = args.gate_bias;
    inner.y = args.workspace;
    inner.y_stride = workspace.inner_stride;
    inner.scratch = at(args.workspace, workspace.scratch);
    inner.scratch_size = workspace.scratch_size;
    return inner;
}

ProductArgs inner_args(Form const& form, Args const& args, Workspace const& workspace)
{
    ProductArgs inner = whole_inner_args(args, workspace);
    inner.gate_weight = inner.gate_bias = nullptr;
    if (activates_apart(form))
    {
        inner.bias = nullptr;
    }
    return inner;
}

ProductArgs outer_args(Args const& args, Workspace const& workspace)
{
    ProductArgs outer{};
    outer.num_tokens = args.num_tokens;
    outer.x = args.workspace;
    outer.x_stride = workspace.inner_stride;
    outer.weight = args.proj_weight;
    outer.bias = args.proj_bias;
    outer.residual = args.residual;
    outer.residual_stride = args.residual_stride;
    outer.y = args.y;
    outer.y_stride = args.y_stride;
    outer.scratch = at(args.workspace, workspace.scratch);
    outer.scratch_size = workspace.scratch_size;
    return outer;
}

ProductArgs planned_inner_args(Form const& form, int64_t bucket)
{
    return inner_args(form, planned_run(form, bucket), cublaslt_workspace(form, bucket));
}

ProductArgs planned_outer_args(Form const& form, int64_t bucket)
{
    return outer_args(planned_run(form, bucket), cublaslt_workspace(form, bucket));
}

trtllm_ext_status check_run(Plan const& plan, Args const& args)
{
    DeviceFacts device{};
    TRTLLM_EXT_CHECK(current_device(&device));
    if (device.ordinal != plan.machine.device.ordinal)
    {
        return fail(TRTLLM_EXT_UNSUPPORTED_DEVICE,
            "%s: the plan was made for device %d, and the current device is %d; make a plan on each", call,
            plan.machine.device.ordinal, device.ordinal);
    }
    TRTLLM_EXT_CHECK(check_operands(plan.form, args));
    TRTLLM_EXT_CHECK(check_memory(plan.form, args));
    Road const& road = choose_road(plan.form, args.num_tokens, plan.machine);
    return check_workspace(args, road.workspace(plan.form, args.num_tokens));
}

} // namespace trtllm_ext::feed_forward
