#include "residual_norm_check.h"

#include "arguments.h"
#include "status.h"

namespace trtllm_ext::residual_norm
{
namespace
{

constexpr int VECTOR_BYTES = 16;

trtllm_ext_status refused(char const* sentence) noexcept
{
    return fail(TRTLLM_EXT_INVALID_ARGUMENT, "%s: %s", CALL, sentence);
}

trtllm_ext_status check_quantized_type(int32_t type) noexcept
{
    if (type != TRTLLM_EXT_NO_TYPE && type != TRTLLM_EXT_INT8 && type != TRTLLM_EXT_FLOAT8_E4M3)
    {
        return fail(TRTLLM_EXT_UNSUPPORTED_TYPE,
            "%s: no kernel for quantized_type %d; it has INT8 (4) and FLOAT8_E4M3 (5), and NO_TYPE (0) for none", CALL,
            type);
    }
    return TRTLLM_EXT_SUCCESS;
}

trtllm_ext_status check_eps(trtllm_ext_residual_norm_args const& args) noexcept
{
    TRTLLM_EXT_CHECK(check_finite(CALL, "eps", args.eps));
    if (args.norm != TRTLLM_EXT_NO_NORM && args.eps <= 0)
    {
        return fail(TRTLLM_EXT_INVALID_ARGUMENT, "%s: eps is %g; it must be above 0, or a row of zeros has no norm",
            CALL, static_cast<double>(args.eps));
    }
    return TRTLLM_EXT_SUCCESS;
}

trtllm_ext_status check_weight(trtllm_ext_residual_norm_args const& args) noexcept
{
    TRTLLM_EXT_CHECK(check_finite(CALL, "weight_offset", args.weight_offset));
    if (args.weight_offset != 0 && args.weight == nullptr && args.num_tokens > 0)
    {
        return refused("weight_offset without a weight; pass the weight, or 0");
    }
    if (args.weight_offset != 0 && args.rounding == TRTLLM_EXT_BEFORE_WEIGHT)
    {
        return refused("weight_offset goes with rounding AFTER_WEIGHT only");
    }
    return TRTLLM_EXT_SUCCESS;
}

/* What only a norm has; without one there is the sum alone. */
trtllm_ext_status check_no_norm(trtllm_ext_residual_norm_args const& args) noexcept
{
    bool const has_weights = args.weight != nullptr || args.norm_bias != nullptr;
    bool const has_outputs = args.normed != nullptr || args.quantized != nullptr || args.scales != nullptr;
    if (args.quantized_type != TRTLLM_EXT_NO_TYPE || has_weights || has_outputs)
    {
        return refused("norm is NO_NORM, the sum alone, which has no weight, norm_bias, normed, quantized and scales; "
                       "say LAYER_NORM (1) or RMS_NORM (2), or leave them out");
    }
    return TRTLLM_EXT_SUCCESS;
}

trtllm_ext_status check_outputs(trtllm_ext_residual_norm_args const& args) noexcept
{
    bool const is_quantized = args.quantized_type != TRTLLM_EXT_NO_TYPE;
    if (is_quantized && (args.quantized == nullptr || args.scales == nullptr))
    {
        return refused("quantized_type needs quantized and scales, and one of them is NULL");
    }
    if (!is_quantized && (args.quantized != nullptr || args.scales != nullptr))
    {
        return refused("quantized or scales without a quantized_type; say INT8 (4) or FLOAT8_E4M3 (5)");
    }
    if (args.sum == nullptr && args.normed == nullptr && !is_quantized)
    {
        return refused("sum, normed and quantized are all NULL; there is nothing to write");
    }
    return TRTLLM_EXT_SUCCESS;
}

} // namespace

trtllm_ext_status check_form(trtllm_ext_residual_norm_args const& args) noexcept
{
    TRTLLM_EXT_CHECK(check_float_type(CALL, args.type));
    TRTLLM_EXT_CHECK(check_choice(
        CALL, "norm", "trtllm_ext_norm", args.norm, TRTLLM_EXT_NO_NORM, TRTLLM_EXT_RMS_NORM));
    TRTLLM_EXT_CHECK(check_choice(CALL, "rounding", "trtllm_ext_rounding", args.rounding, TRTLLM_EXT_AFTER_WEIGHT,
        TRTLLM_EXT_BEFORE_WEIGHT));
    TRTLLM_EXT_CHECK(check_choice(CALL, "reserved", "it", args.reserved, 0, 0));
    TRTLLM_EXT_CHECK(check_quantized_type(args.quantized_type));
    TRTLLM_EXT_CHECK(check_eps(args));
    TRTLLM_EXT_CHECK(check_weight(args));
    if (args.norm == TRTLLM_EXT_NO_NORM)
    {
        TRTLLM_EXT_CHECK(check_no_norm(args));
    }
    return check_sizes(CALL, args.num_tokens, "hidden_size", args.hidden_size);
}

trtllm_ext_status check_memory(trtllm_ext_residual_norm_args const& args, bool* wide) noexcept
{
    int const size = size_of_type(args.type);
    int64_t const tokens = args.num_tokens;
    int64_t const width = args.hidden_size;
    MatrixArgument const inputs[] = {
        {"x", args.x, args.x_stride, size},
        {"residual", args.residual, args.residual_stride, size},
    };
    MatrixArgument const outputs[] = {
        {"sum", args.sum, args.sum_stride, size},
        {"normed", args.normed, args.normed_stride, size},
        {"quantized", args.quantized, args.quantized_stride, 1},
    };
    VectorArgument const vectors[] = {
        {"bias", args.bias, size},
        {"weight", args.weight, size},
        {"norm_bias", args.norm_bias, size},
    };
    VectorArgument const scales{"scales", args.scales, static_cast<int>(sizeof(float))};
    // The scales as a row, and as an output: they have a token's number of elements.
    MatrixArgument const scales_row{scales.name, scales.data, tokens, scales.element_size};
    TRTLLM_EXT_CHECK(check_given(CALL, "x", args.x));
    TRTLLM_EXT_CHECK(check_outputs(args));
    TRTLLM_EXT_CHECK(check_vector(CALL, scales));
    for (MatrixArgument const& input : inputs)
    {
        TRTLLM_EXT_CHECK(check_matrix(CALL, input, tokens, width));
        TRTLLM_EXT_CHECK(check_apart(CALL, input, scales, tokens, width, tokens));
    }
    for (VectorArgument const& vector : vectors)
    {
        TRTLLM_EXT_CHECK(check_vector(CALL, vector));
        TRTLLM_EXT_CHECK(check_apart(CALL, scales_row, vector, 1, tokens, width));
    }
    for (MatrixArgument const& output : outputs)
    {
        TRTLLM_EXT_CHECK(check_matrix(CALL, output, tokens, width));
        TRTLLM_EXT_CHECK(check_apart(CALL, output, scales, tokens, width, tokens));
        for (MatrixArgument const& input : inputs)
        {
            TRTLLM_EXT_CHECK(check_apart(CALL, output, input, tokens, width, true));
        }
        for (VectorArgument const& vector : vectors)
        {
            TRTLLM_EXT_CHECK(check_apart(CALL, output, vector, tokens, width));
        }
    }
    TRTLLM_EXT_CHECK(check_apart(CALL, outputs[0], outputs[1], tokens, width, false));
    TRTLLM_EXT_CHECK(check_apart(CALL, outputs[2], outputs[0], tokens, width, false));
    TRTLLM_EXT_CHECK(check_apart(CALL, outputs[2], outputs[1], tokens, width, false));
    // A vector of elements is written as a vector of as many quantized ones.
    *wide = width * size % VECTOR_BYTES == 0 && vectors_aligned({vectors[0], vectors[1], vectors[2]}, VECTOR_BYTES)
        && rows_aligned({inputs[0], inputs[1], outputs[0], outputs[1]}, tokens, VECTOR_BYTES)
        && rows_aligned({outputs[2]}, tokens, VECTOR_BYTES / size);
    return TRTLLM_EXT_SUCCESS;
}

} // namespace trtllm_ext::residual_norm
