/*
 * residual_norm: sum = x + bias + residual, and the norm of it, row by row.
 *
 * It is bound by memory: 16384 rows of 4096 bfloat16 are 537 MB, 129 us for a copy of as much on an H200. So
 * an element is read once and written once an output; rows wait in registers between their statistics (two passes:
 * mean, then squared deviations) and their norm. device/norm_in_registers.cuh is that kernel;
 * device/norm_in_passes.cuh is for what does not fit or is not aligned.
 */
#include <algorithm>
#include <cstddef>

#include "arguments.h"
#include "device/norm_in_passes.cuh"
#include "device/norm_in_registers.cuh"
#include "device_facts.h"
#include "launch.h"
#include "residual_norm_check.h"
#include "row_plan.h"

namespace trtllm_ext::residual_norm
{
namespace
{

template <typename T>
NormArguments<T> typed(trtllm_ext_residual_norm_args const& args)
{
    NormArguments<T> typed{};
    bool const is_normed = args.normed != nullptr || args.quantized != nullptr;
    typed.norm = is_normed ? static_cast<trtllm_ext_norm>(args.norm) : TRTLLM_EXT_NO_NORM;
    typed.rounding = static_cast<trtllm_ext_rounding>(args.rounding);
    typed.quantized_type = static_cast<trtllm_ext_type>(args.quantized_type);
    typed.eps = args.eps;
    typed.weight_offset = args.weight_offset;
    typed.inverse_width = 1.0f / static_cast<float>(args.hidden_size);
    typed.has_residual = args.residual != nullptr;
    typed.has_bias = args.bias != nullptr;
    typed.has_weight = args.weight != nullptr;
    typed.has_norm_bias = args.norm_bias != nullptr;
    typed.has_sum = args.sum != nullptr;
    typed.has_normed = args.normed != nullptr;
    typed.num_rows = args.num_tokens;
    typed.width = args.hidden_size;
    typed.x = {static_cast<T const*>(args.x), args.x_stride};
    typed.residual = {static_cast<T const*>(args.residual), args.residual_stride};
    typed.sum = {static_cast<T*>(args.sum), args.sum_stride};
    typed.normed = {static_cast<T*>(args.normed), args.normed_stride};
    typed.quantized = {static_cast<uint8_t*>(args.quantized), args.quantized_stride};
    typed.scales = args.scales;
    typed.bias = static_cast<T const*>(args.bias);
    typed.weight = static_cast<T const*>(args.weight);
    typed.norm_bias = static_cast<T const*>(args.norm_bias);
    return typed;
}

template <typename T, int VECTORS, bool FULL, bool QUANTIZED, bool USUAL>
trtllm_ext_status launch_in_registers(
    NormArguments<T> const& arguments, RowPlan const& plan, trtllm_ext_stream stream)
{
    // check_sizes() has kept the number of rows to what a grid may have.
    int64_t const num_blocks = (arguments.num_rows + plan.rows_per_block - 1) / plan.rows_per_block;
    LaunchShape const shape{
        dim3(static_cast<unsigned>(num_blocks)), dim3(plan.threads_per_row, plan.rows_per_block)};
    return launch_dependent(
        CALL, norm_in_registers_kernel<T, VECTORS, FULL, QUANTIZED, USUAL>, shape, stream, arguments);
}

template <typename T, int VECTORS, bool FULL>
trtllm_ext_status run_in_registers(NormArguments<T> const& arguments, RowPlan const& plan, trtllm_ext_stream stream)
{
    if (arguments.quantized_type != TRTLLM_EXT_NO_TYPE)
    {
        return launch_in_registers<T, VECTORS, FULL, true, false>(arguments, plan, stream);
    }
    // Full rows are those of nearly all models; for others the general kernel does.
    if constexpr (FULL)
    {
        if (is_usual_form(arguments))
        {
            return launch_in_registers<T, VECTORS, FULL, false, true>(arguments, plan, stream);
        }
    }
    return launch_in_registers<T, VECTORS, FULL, false, false>(arguments, plan, stream);
}

template <typename T, int WIDTH>
trtllm_ext_status run_in_passes(NormArguments<T> const& arguments, trtllm_ext_stream stream)
{
    int64_t const num_warps = (arguments.width / WIDTH + WARP_SIZE - 1) / WARP_SIZE;
    int const num_threads = static_cast<int>(std::min<int64_t>(num_warps * WARP_SIZE, LARGEST_ROW_BLOCK));
    LaunchShape const shape{dim3(static_cast<unsigned>(arguments.num_rows)), dim3(num_threads)};
    return launch_dependent(CALL, norm_in_passes_kernel<T, WIDTH>, shape, stream, arguments);
}

template <typename T>
trtllm_ext_status run(trtllm_ext_residual_norm_args const& args, bool wide, trtllm_ext_stream stream)
{
    NormArguments<T> const arguments = typed<T>(args);
    if (!wide)
    {
        return run_in_passes<T, 1>(arguments, stream);
    }
    int64_t const num_vectors = arguments.width / VECTOR_WIDTH<T>;
    RowPlan const plan = plan_rows(num_vectors);
    bool const full = plan.rows_per_block == 1 && plan.threads_per_row * plan.vectors_per_thread == num_vectors;
    switch (plan.vectors_per_thread)
    {
    case 1: return run_in_registers<T, 1, false>(arguments, plan, stream);
    case 2:
        return full ? run_in_registers<T, 2, true>(arguments, plan, stream)
                    : run_in_registers<T, 2, false>(arguments, plan, stream);
    case 4:
        return full ? run_in_registers<T, 4, true>(arguments, plan, stream)
                    : run_in_registers<T, 4, false>(arguments, plan, stream);
    default: return run_in_passes<T, VECTOR_WIDTH<T>>(arguments, stream);
    }
}

} // namespace
} // namespace trtllm_ext::residual_norm

extern "C" trtllm_ext_status trtllm_ext_residual_norm(
    trtllm_ext_residual_norm_args const* given, trtllm_ext_stream stream)
{
    using namespace trtllm_ext;
    using namespace trtllm_ext::residual_norm;
    constexpr uint32_t FIRST_SIZE = offsetof(trtllm_ext_residual_norm_args, quantized_stride) + sizeof(int64_t);
    trtllm_ext_residual_norm_args args;
    TRTLLM_EXT_CHECK(take_struct(CALL, given, FIRST_SIZE, &args));
    TRTLLM_EXT_CHECK(check_form(args));
    if (args.num_tokens == 0)
    {
        return TRTLLM_EXT_SUCCESS;
    }
    bool wide = false;
    DeviceFacts device{}; // asked for the refusal of a device that the kernels are not compiled for
    TRTLLM_EXT_CHECK(check_memory(args, &wide));
    TRTLLM_EXT_CHECK(current_device(&device));
    switch (args.type)
    {
    case TRTLLM_EXT_FLOAT32: return run<float>(args, wide, stream);
    case TRTLLM_EXT_FLOAT16: return run<__half>(args, wide, stream);
    default: return run<__nv_bfloat16>(args, wide, stream);
    }
}
