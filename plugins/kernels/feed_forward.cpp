/*
 * The C interface of the feed-forward operation: structures are taken and checked here, exceptions end here.
 */
#include "arguments.h"
#include "feed_forward_choices.h"
#include "feed_forward_plan.h"
#include "feed_forward_tuning.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <new>

namespace trtllm_ext::feed_forward
{
namespace
{

constexpr char const* call = "feed_forward";
constexpr uint32_t least_form_size = sizeof(Form);
constexpr uint32_t least_args_size = sizeof(Args);

// Calls a function that may throw, which no caller in C could catch.
template <typename Function>
trtllm_ext_status guarded(Function&& function) noexcept
{
    try
    {
        return function();
    }
    catch (std::bad_alloc const&)
    {
        return fail(TRTLLM_EXT_OUT_OF_MEMORY, "%s: the host has no memory left", call);
    }
    catch (std::exception const& problem)
    {
        return fail(TRTLLM_EXT_CUBLAS_FAILURE, "%s: %s", call, problem.what());
    }
}

// Opens cublasLt and takes its heuristic's first for every bucket; leaves `cublaslt` NULL, with the reason, without it.
void add_cublaslt(Plan& plan)
{
    cublaslt::Library const* const library = cublaslt::open_library(plan.no_cublaslt);
    if (library == nullptr)
    {
        return;
    }
    cublaslt::Status status = cublaslt::SUCCESS;
    cublaslt::Handle const handle = cublaslt::handle_of(*library, plan.machine.device.ordinal, status);
    if (handle == nullptr)
    {
        (void) cudaGetLastError();
        plan.no_cublaslt = library->file + " gives no handle: " + cublaslt::name_of(status);
        return;
    }
    plan.cublaslt.reset(new CublasLtProducts{
        {*library, handle, inner_product(plan.form)}, {*library, handle, outer_product(plan.form)}});
    plan.machine.has_cublaslt = true;
    for (int64_t bucket = 1; bucket > 0; bucket = bucket_of(plan.form, bucket + 1))
    {
        plan.cublaslt->inner.choose(planned_inner_args(plan.form, bucket));
        plan.cublaslt->outer.choose(planned_outer_args(plan.form, bucket));
    }
}

trtllm_ext_status create(trtllm_ext_feed_forward_form const* given, Plan** made)
{
    auto plan = std::make_unique<Plan>();
    TRTLLM_EXT_CHECK(take_struct(call, given, least_form_size, &plan->form));
    TRTLLM_EXT_CHECK(check_form(plan->form));
    TRTLLM_EXT_CHECK(current_device(&plan->machine.device));
    cudaDeviceProp properties{};
    cudaError_t const error = cudaGetDeviceProperties(&properties, plan->machine.device.ordinal);
    TRTLLM_EXT_CHECK(from_cuda(error, "feed_forward: the device's name"));
    plan->device_name = properties.name;
    add_cublaslt(*plan);
    *made = plan.release();
    return TRTLLM_EXT_SUCCESS;
}

// The arguments of a run as this library knows them, checked; `args.num_tokens` 0 for nothing to do.
trtllm_ext_status take_run(Plan const* plan, Args const* given, Args& args)
{
    TRTLLM_EXT_CHECK(check_given(call, "plan", plan));
    TRTLLM_EXT_CHECK(take_struct(call, given, least_args_size, &args));
    TRTLLM_EXT_CHECK(check_choice(call, "reserved", "it", args.reserved, 0, 0));
    TRTLLM_EXT_CHECK(check_sizes(call, args.num_tokens, "hidden_size", plan->form.hidden_size));
    if (args.num_tokens > plan->form.max_num_tokens)
    {
        return fail(TRTLLM_EXT_TOO_MANY_TOKENS, "%s: %lld tokens, and the plan is for at most %lld; make a larger plan",
            call, static_cast<long long>(args.num_tokens), static_cast<long long>(plan->form.max_num_tokens));
    }
    return args.num_tokens == 0 ? TRTLLM_EXT_SUCCESS : check_run(*plan, args);
}

trtllm_ext_status run(Plan const* plan, Args const* given, trtllm_ext_stream stream)
{
    Args args{};
    TRTLLM_EXT_CHECK(take_run(plan, given, args));
    if (args.num_tokens == 0)
    {
        return TRTLLM_EXT_SUCCESS;
    }
    return choose_road(plan->form, args.num_tokens, plan->machine).run(*plan, args, stream);
}

trtllm_ext_status tune_checked(Plan* plan, Args const* given, trtllm_ext_stream stream)
{
    Args args{};
    TRTLLM_EXT_CHECK(take_run(plan, given, args));
    if (args.num_tokens == 0)
    {
        return TRTLLM_EXT_SUCCESS;
    }
    if (plan->cublaslt == nullptr)
    {
        return fail(TRTLLM_EXT_LIBRARY_MISSING, "%s: there is nothing to tune without cublasLt. %s", call,
            plan->no_cublaslt.c_str());
    }
    bool const is_tuned = choose_road(plan->form, args.num_tokens, plan->machine).is_tuned;
    return is_tuned ? tune(*plan, args, stream) : TRTLLM_EXT_SUCCESS;
}

trtllm_ext_status copy_choices(Plan const* plan, void* buffer, uint64_t* size)
{
    TRTLLM_EXT_CHECK(check_given(call, "plan", plan));
    TRTLLM_EXT_CHECK(check_given(call, "size", size));
    std::vector<unsigned char> const bytes = write_choices(*plan);
    uint64_t const room = *size;
    *size = bytes.size();
    if (buffer == nullptr)
    {
        return TRTLLM_EXT_SUCCESS;
    }
    if (room < bytes.size())
    {
        return fail(TRTLLM_EXT_INVALID_ARGUMENT, "%s: the choices are %llu bytes, and the buffer has %llu", call,
            static_cast<unsigned long long>(bytes.size()), static_cast<unsigned long long>(room));
    }
    std::memcpy(buffer, bytes.data(), bytes.size());
    return TRTLLM_EXT_SUCCESS;
}

trtllm_ext_status take_choices(Plan* plan, void const* buffer, uint64_t size, int32_t* num_taken)
{
    TRTLLM_EXT_CHECK(check_given(call, "plan", plan));
    TRTLLM_EXT_CHECK(check_given(call, "buffer", buffer));
    int32_t taken = 0;
    trtllm_ext_status const status = read_choices(*plan, buffer, size, &taken);
    if (num_taken != nullptr)
    {
        *num_taken = taken;
    }
    return status;
}

trtllm_ext_status describe(Plan const* plan, int64_t num_tokens, char* text, uint64_t size)
{
    TRTLLM_EXT_CHECK(check_given(call, "plan", plan));
    TRTLLM_EXT_CHECK(check_given(call, "text", text));
    if (bucket_of(plan->form, num_tokens) < 0)
    {
        return fail(TRTLLM_EXT_INVALID_ARGUMENT, "%s: %lld tokens; the plan is for 0 to %lld", call,
            static_cast<long long>(num_tokens), static_cast<long long>(plan->form.max_num_tokens));
    }
    std::string const description = description_of(*plan, num_tokens);
    if (size <= description.size())
    {
        return fail(TRTLLM_EXT_INVALID_ARGUMENT, "%s: the description needs %llu bytes, and there are %llu", call,
            static_cast<unsigned long long>(description.size() + 1), static_cast<unsigned long long>(size));
    }
    std::memcpy(text, description.c_str(), description.size() + 1);
    return TRTLLM_EXT_SUCCESS;
}

} // namespace
} // namespace trtllm_ext::feed_forward

namespace ff = trtllm_ext::feed_forward;

extern "C" trtllm_ext_status trtllm_ext_feed_forward_create(
    trtllm_ext_feed_forward_form const* form, trtllm_ext_feed_forward_plan** plan)
{
    TRTLLM_EXT_CHECK(trtllm_ext::check_given(ff::call, "plan", plan));
    *plan = nullptr;
    return ff::guarded([&] { return ff::create(form, plan); });
}

extern "C" void trtllm_ext_feed_forward_destroy(trtllm_ext_feed_forward_plan* plan)
{
    delete plan;
}

extern "C" uint64_t trtllm_ext_feed_forward_workspace(trtllm_ext_feed_forward_plan const* plan, int64_t num_tokens)
{
    if (plan == nullptr || num_tokens < 1)
    {
        return 0;
    }
    return ff::largest_workspace(plan->form, std::min(num_tokens, plan->form.max_num_tokens), plan->machine);
}

extern "C" int64_t trtllm_ext_feed_forward_bucket(trtllm_ext_feed_forward_plan const* plan, int64_t num_tokens)
{
    return plan == nullptr ? -1 : ff::bucket_of(plan->form, num_tokens);
}

extern "C" trtllm_ext_status trtllm_ext_feed_forward(
    trtllm_ext_feed_forward_plan const* plan, trtllm_ext_feed_forward_args const* args, trtllm_ext_stream stream)
{
    return ff::guarded([&] { return ff::run(plan, args, stream); });
}

extern "C" trtllm_ext_status trtllm_ext_feed_forward_tune(
    trtllm_ext_feed_forward_plan* plan, trtllm_ext_feed_forward_args const* args, trtllm_ext_stream stream)
{
    return ff::guarded([&] { return ff::tune_checked(plan, args, stream); });
}

extern "C" trtllm_ext_status trtllm_ext_feed_forward_choices(
    trtllm_ext_feed_forward_plan const* plan, void* buffer, uint64_t* size)
{
    return ff::guarded([&] { return ff::copy_choices(plan, buffer, size); });
}

extern "C" trtllm_ext_status trtllm_ext_feed_forward_take_choices(
    trtllm_ext_feed_forward_plan* plan, void const* buffer, uint64_t size, int32_t* num_taken)
{
    return ff::guarded([&] { return ff::take_choices(plan, buffer, size, num_taken); });
}

extern "C" trtllm_ext_status trtllm_ext_feed_forward_describe(
    trtllm_ext_feed_forward_plan const* plan, int64_t num_tokens, char* text, uint64_t size)
{
    return ff::guarded([&] { return ff::describe(plan, num_tokens, text, size); });
}
