#include "feed_forward_descriptors.h"

#include "arguments.h"

#include <algorithm>

namespace trtllm_ext::feed_forward
{
namespace
{

using namespace cublaslt;

DataType data_type(int32_t type)
{
    return type == TRTLLM_EXT_FLOAT16 ? R_16F : type == TRTLLM_EXT_BFLOAT16 ? R_16BF : R_32F;
}

Epilogue epilogue_of(Product const& product)
{
    switch (product.activation)
    {
    case TRTLLM_EXT_RELU: return product.has_bias ? EPILOGUE_RELU_BIAS : EPILOGUE_RELU;
    case TRTLLM_EXT_GELU_TANH: return product.has_bias ? EPILOGUE_GELU_BIAS : EPILOGUE_GELU;
    default: return product.has_bias ? EPILOGUE_BIAS : EPILOGUE_DEFAULT;
    }
}

// The largest power of two, up to 256, that divides an address or a distance in bytes.
uint32_t alignment_of(uint64_t bytes)
{
    return static_cast<uint32_t>((bytes | 256) & ~((bytes | 256) - 1));
}

uint32_t alignment_of(void const* pointer)
{
    return alignment_of(static_cast<uint64_t>(reinterpret_cast<uintptr_t>(pointer)));
}

// A bias is read beside D's elements, so that D's alignment speaks for both.
uint32_t output_alignment(ProductArgs const& args)
{
    uint32_t const y = alignment_of(args.y);
    return args.bias == nullptr ? y : std::min(y, alignment_of(args.bias));
}

// Rows this far apart are as well aligned as rows without gaps, or as well as plans promise.
bool keeps_alignment(int64_t stride, int64_t width, uint64_t element)
{
    uint32_t const own = alignment_of(static_cast<uint64_t>(stride) * element);
    return own >= std::min(alignment_of(static_cast<uint64_t>(width) * element), planned_alignment);
}

// Keeps the first status that is no success.
void also(Status& status, Status next)
{
    if (status == SUCCESS)
    {
        status = next;
    }
}

} // namespace

bool is_as_planned(Product const& product, ProductArgs const& args)
{
    void const* const addition = product.has_residual ? args.residual : args.y;
    int64_t const addition_stride = product.has_residual ? args.residual_stride : args.y_stride;
    uint64_t const element = static_cast<uint64_t>(size_of_type(product.type));
    return std::min({alignment_of(args.x), alignment_of(args.weight), alignment_of(addition), output_alignment(args)})
        >= planned_alignment
        && keeps_alignment(args.x_stride, product.in_features, element)
        && keeps_alignment(args.y_stride, product.out_features, element)
        && keeps_alignment(addition_stride, product.out_features, element);
}

char const* epilogue_name(Product const& product)
{
    switch (epilogue_of(product))
    {
    case EPILOGUE_RELU: return "RELU";
    case EPILOGUE_BIAS: return "BIAS";
    case EPILOGUE_RELU_BIAS: return "RELU_BIAS";
    case EPILOGUE_GELU: return "GELU";
    case EPILOGUE_GELU_BIAS: return "GELU_BIAS";
    default: return "DEFAULT";
    }
}

Descriptors::Descriptors(Library const& library, Handle handle, Product const& product)
    : functions_(library.functions)
    , handle_(handle)
    , product_(product)
{
    DataType const type = data_type(product.type);
    uint64_t const in = static_cast<uint64_t>(product.in_features), out = static_cast<uint64_t>(product.out_features);
    int64_t const in_stride = product.in_features, out_stride = product.out_features;
    ComputeType const compute
        = product.type == TRTLLM_EXT_FLOAT32 && product.tf32 ? COMPUTE_32F_FAST_TF32 : COMPUTE_32F;
    status_ = functions_.desc_create(&desc_, compute, R_32F);
    also(status_, functions_.layout_create(&weight_, type, in, out, in_stride));
    also(status_, functions_.layout_create(&x_, type, in, 1, in_stride));
    also(status_, functions_.layout_create(&residual_, type, out, 1, out_stride));
    also(status_, functions_.layout_create(&y_, type, out, 1, out_stride));
    also(status_, functions_.preference_create(&preference_));
    if (status_ != SUCCESS)
    {
        return;
    }
    Operation const transposed = OP_T, as_it_is = OP_N;
    Epilogue const epilogue = epilogue_of(product);
    also(status_, functions_.desc_set(desc_, DESC_TRANSA, &transposed, sizeof transposed));
    also(status_, functions_.desc_set(desc_, DESC_TRANSB, &as_it_is, sizeof as_it_is));
    also(status_, functions_.desc_set(desc_, DESC_EPILOGUE, &epilogue, sizeof epilogue));
    // Parts of a split product are added in float32, never rounded to a narrower type before.
    ReductionScheme const scheme = REDUCTION_SCHEME_COMPUTE_TYPE;
    if (product.type != TRTLLM_EXT_FLOAT32)
    {
        also(status_, functions_.preference_set(preference_, PREF_REDUCTION_SCHEME_MASK, &scheme, sizeof scheme));
    }
    if (product.has_bias)
    {
        also(status_, functions_.desc_set(desc_, DESC_BIAS_DATA_TYPE, &type, sizeof type));
    }
}

Descriptors::~Descriptors()
{
    if (preference_ != nullptr)
    {
        functions_.preference_destroy(preference_);
    }
    for (Layout layout : {weight_, x_, residual_, y_})
    {
        if (layout != nullptr)
        {
            functions_.layout_destroy(layout);
        }
    }
    if (desc_ != nullptr)
    {
        functions_.desc_destroy(desc_);
    }
}

Status Descriptors::describe(ProductArgs const& args)
{
    Status status = status_;
    uint64_t const columns = static_cast<uint64_t>(args.num_tokens);
    struct
    {
        Layout layout;
        int64_t stride;
    } const matrices[] = {{x_, args.x_stride}, {y_, args.y_stride},
        {residual_, product_.has_residual ? args.residual_stride : args.y_stride}};
    for (auto const& matrix : matrices)
    {
        if (status == SUCCESS)
        {
            status = functions_.layout_set(matrix.layout, LAYOUT_COLS, &columns, sizeof columns);
        }
        if (status == SUCCESS)
        {
            status = functions_.layout_set(matrix.layout, LAYOUT_LD, &matrix.stride, sizeof matrix.stride);
        }
    }
    if (status == SUCCESS && product_.has_bias)
    {
        status = functions_.desc_set(desc_, DESC_BIAS_POINTER, &args.bias, sizeof args.bias);
    }
    return status;
}

int Descriptors::heuristics(ProductArgs const& args, HeuristicResult* results, int most)
{
    void const* const addition = product_.has_residual ? args.residual : args.y;
    struct
    {
        PreferenceAttribute attribute;
        uint32_t alignment;
    } const alignments[] = {{PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(args.weight)},
        {PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(args.x)}, {PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(addition)},
        {PREF_MIN_ALIGNMENT_D_BYTES, output_alignment(args)}};
    Status status = functions_.preference_set(
        preference_, PREF_MAX_WORKSPACE_BYTES, &args.scratch_size, sizeof args.scratch_size);
    for (auto const& each : alignments)
    {
        also(status, functions_.preference_set(preference_, each.attribute, &each.alignment, sizeof each.alignment));
    }
    int found = 0;
    if (status == SUCCESS)
    {
        status = functions_.heuristic(
            handle_, desc_, weight_, x_, residual_, y_, preference_, most, results, &found);
    }
    if (status != SUCCESS)
    {
        return 0;
    }
    HeuristicResult* const end = std::remove_if(results, results + found,
        [&](HeuristicResult const& each) { return each.state != SUCCESS || each.workspace_size > args.scratch_size; });
    return static_cast<int>(end - results);
}

bool Descriptors::accepts(Algorithm const& algorithm, uint64_t scratch_size)
{
    HeuristicResult result{};
    Status const status = functions_.check(handle_, desc_, weight_, x_, residual_, y_, &algorithm, &result);
    return status == SUCCESS && result.workspace_size <= scratch_size;
}

Status Descriptors::matmul(ProductArgs const& args, Algorithm const& algorithm, Stream stream)
{
    float const one = 1, beta = product_.has_residual ? 1 : 0;
    void const* const addition = product_.has_residual ? args.residual : args.y;
    return functions_.matmul(handle_, desc_, &one, args.weight, weight_, args.x, x_, &beta, addition, residual_, args.y,
        y_, &algorithm, args.scratch, args.scratch_size, stream);
}

} // namespace trtllm_ext::feed_forward
