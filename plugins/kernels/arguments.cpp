#include "arguments.h"

#include <cmath>
#include <numeric>

namespace trtllm_ext
{
namespace
{

constexpr int64_t LARGEST_WIDTH = int64_t{1} << 31;
// Blocks of a grid: the kernels of rows have one a row.
constexpr int64_t LARGEST_NUM_TOKENS = 0x7fffffff;
// Offsets of this many elements, in bytes and with room for sums, stay within 64 bits.
constexpr int64_t LARGEST_NUM_ELEMENTS = int64_t{1} << 58;

long long number(int64_t value)
{
    return static_cast<long long>(value);
}

bool is_aligned(void const* data, int64_t bytes)
{
    return reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(bytes) == 0;
}

struct Span
{
    intptr_t begin;
    int64_t stride; // bytes
    int64_t width;  // bytes
    int64_t num_rows;

    intptr_t end() const
    {
        return begin + (num_rows - 1) * stride + width;
    }
};

Span span_of(MatrixArgument const& matrix, int64_t num_tokens, int64_t width)
{
    int64_t const size = matrix.element_size;
    return {reinterpret_cast<intptr_t>(matrix.data), matrix.stride * size, width * size, num_tokens};
}

/*
 * Whether a byte of one is a byte of the other. Rows of both repeat with their strides, so they are apart everywhere
 * if they are apart in one period of the strides' greatest common divisor; where they are not, rows that meet only
 * outside both matrices would be taken for sharing, which no real layout has.
 */
bool share_memory(Span const& a, Span const& b)
{
    if (a.end() <= b.begin || b.end() <= a.begin)
    {
        return false;
    }
    int64_t period = a.num_rows > 1 ? a.stride : 0;
    period = std::gcd(period, b.num_rows > 1 ? b.stride : int64_t{0});
    if (period == 0)
    {
        return true;
    }
    int64_t const offset = ((b.begin - a.begin) % period + period) % period;
    return offset < a.width || period - offset < b.width;
}

trtllm_ext_status shares(char const* call, char const* output, char const* other)
{
    return fail(TRTLLM_EXT_INVALID_ARGUMENT,
        "%s: %s shares memory with %s in a way that would be overwritten before it is read; give it memory of its own",
        call, output, other);
}

} // namespace

int size_of_type(int32_t type) noexcept
{
    switch (type)
    {
    case TRTLLM_EXT_FLOAT32: return 4;
    case TRTLLM_EXT_FLOAT16: return 2;
    case TRTLLM_EXT_BFLOAT16: return 2;
    case TRTLLM_EXT_INT8: return 1;
    case TRTLLM_EXT_FLOAT8_E4M3: return 1;
    default: return 0;
    }
}

trtllm_ext_status check_sizes(char const* call, int64_t num_tokens, char const* width_name, int64_t width) noexcept
{
    if (num_tokens < 0 || num_tokens > LARGEST_NUM_TOKENS)
    {
        return fail(TRTLLM_EXT_INVALID_ARGUMENT, "%s: num_tokens is %lld; it must be from 0 to %lld", call,
            number(num_tokens), number(LARGEST_NUM_TOKENS));
    }
    if (width < 1 || width > LARGEST_WIDTH)
    {
        return fail(TRTLLM_EXT_INVALID_ARGUMENT, "%s: %s is %lld; it must be from 1 to %lld", call, width_name,
            number(width), number(LARGEST_WIDTH));
    }
    return TRTLLM_EXT_SUCCESS;
}

trtllm_ext_status check_float_type(char const* call, int32_t type) noexcept
{
    if (type != TRTLLM_EXT_FLOAT32 && type != TRTLLM_EXT_FLOAT16 && type != TRTLLM_EXT_BFLOAT16)
    {
        return fail(TRTLLM_EXT_UNSUPPORTED_TYPE,
            "%s: no kernel for type %d; it has FLOAT32 (1), FLOAT16 (2) and BFLOAT16 (3)", call, type);
    }
    return TRTLLM_EXT_SUCCESS;
}

trtllm_ext_status check_choice(
    char const* call, char const* name, char const* enumeration, int32_t value, int32_t least, int32_t most) noexcept
{
    if (value < least || value > most)
    {
        return fail(TRTLLM_EXT_INVALID_ARGUMENT, "%s: %s is %d; %s goes from %d to %d", call, name, value, enumeration,
            least, most);
    }
    return TRTLLM_EXT_SUCCESS;
}

trtllm_ext_status check_finite(char const* call, char const* name, float value) noexcept
{
    if (!std::isfinite(value))
    {
        return fail(TRTLLM_EXT_INVALID_ARGUMENT, "%s: %s is %g; it must be finite", call, name,
            static_cast<double>(value));
    }
    return TRTLLM_EXT_SUCCESS;
}

trtllm_ext_status check_gate(
    char const* call, bool gated, bool has_gate_bias, float clamp, float gate_offset) noexcept
{
    if (!std::isfinite(clamp) || clamp < 0)
    {
        return fail(TRTLLM_EXT_INVALID_ARGUMENT, "%s: clamp is %g; it must be above 0, or 0 for none", call,
            static_cast<double>(clamp));
    }
    TRTLLM_EXT_CHECK(check_finite(call, "gate_offset", gate_offset));
    if (!gated && (has_gate_bias || gate_offset != 0))
    {
        return fail(TRTLLM_EXT_INVALID_ARGUMENT, "%s: %s without a gate; pass a gate, or leave it out", call,
            has_gate_bias ? "gate_bias" : "gate_offset");
    }
    return TRTLLM_EXT_SUCCESS;
}

trtllm_ext_status check_given(char const* call, char const* name, void const* data) noexcept
{
    if (data == nullptr)
    {
        return fail(TRTLLM_EXT_INVALID_ARGUMENT, "%s: %s is NULL; it is needed", call, name);
    }
    return TRTLLM_EXT_SUCCESS;
}

trtllm_ext_status check_matrix(
    char const* call, MatrixArgument const& matrix, int64_t num_tokens, int64_t width) noexcept
{
    if (matrix.data == nullptr)
    {
        return TRTLLM_EXT_SUCCESS;
    }
    int64_t const largest_stride = LARGEST_NUM_ELEMENTS / (num_tokens > 0 ? num_tokens : 1);
    if (num_tokens > 1 && (matrix.stride < width || matrix.stride > largest_stride))
    {
        return fail(TRTLLM_EXT_INVALID_ARGUMENT,
            "%s: %s_stride is %lld elements; it must be from a row's %lld to %lld", call, matrix.name,
            number(matrix.stride), number(width), number(largest_stride));
    }
    return check_vector(call, {matrix.name, matrix.data, matrix.element_size});
}

trtllm_ext_status check_vector(char const* call, VectorArgument const& vector) noexcept
{
    if (!is_aligned(vector.data, vector.element_size))
    {
        return fail(TRTLLM_EXT_INVALID_ARGUMENT,
            "%s: %s is at %p; its elements of %d bytes must be at multiples of that", call, vector.name, vector.data,
            vector.element_size);
    }
    return TRTLLM_EXT_SUCCESS;
}

trtllm_ext_status check_apart(char const* call, MatrixArgument const& output, MatrixArgument const& other,
    int64_t num_tokens, int64_t width, bool may_be_same) noexcept
{
    if (output.data == nullptr || other.data == nullptr || num_tokens == 0)
    {
        return TRTLLM_EXT_SUCCESS;
    }
    bool const same = output.data == other.data && output.element_size == other.element_size
        && (output.stride == other.stride || num_tokens == 1);
    if (same && may_be_same)
    {
        return TRTLLM_EXT_SUCCESS;
    }
    bool const sharing = share_memory(span_of(output, num_tokens, width), span_of(other, num_tokens, width));
    return sharing ? shares(call, output.name, other.name) : TRTLLM_EXT_SUCCESS;
}

trtllm_ext_status check_apart(char const* call, MatrixArgument const& output, VectorArgument const& other,
    int64_t num_tokens, int64_t width, int64_t vector_width) noexcept
{
    if (output.data == nullptr || other.data == nullptr || num_tokens == 0)
    {
        return TRTLLM_EXT_SUCCESS;
    }
    int64_t const num_elements = vector_width > 0 ? vector_width : width;
    Span const row{reinterpret_cast<intptr_t>(other.data), 0, num_elements * other.element_size, 1};
    return share_memory(span_of(output, num_tokens, width), row) ? shares(call, output.name, other.name)
                                                                 : TRTLLM_EXT_SUCCESS;
}

bool rows_aligned(std::initializer_list<MatrixArgument> matrices, int64_t num_tokens, int bytes) noexcept
{
    for (MatrixArgument const& matrix : matrices)
    {
        bool const steps = num_tokens == 1 || matrix.stride * matrix.element_size % bytes == 0;
        if (matrix.data != nullptr && !(steps && is_aligned(matrix.data, bytes)))
        {
            return false;
        }
    }
    return true;
}

bool vectors_aligned(std::initializer_list<VectorArgument> vectors, int bytes) noexcept
{
    for (VectorArgument const& vector : vectors)
    {
        if (!is_aligned(vector.data, bytes))
        {
            return false;
        }
    }
    return true;
}

trtllm_ext_status detail::check_struct(
    char const* call, void const* given, uint32_t size, uint32_t known_size, uint32_t least_size) noexcept
{
    if (given == nullptr)
    {
        return fail(TRTLLM_EXT_INVALID_ARGUMENT, "%s: the arguments are NULL; pass a structure", call);
    }
    if (size < least_size)
    {
        return fail(TRTLLM_EXT_INVALID_ARGUMENT,
            "%s: the arguments say that they are %u bytes; they are at least %u. Set size to sizeof the structure",
            call, size, least_size);
    }
    for (uint32_t at = known_size; at < size; ++at)
    {
        if (static_cast<unsigned char const*>(given)[at] != 0)
        {
            return fail(TRTLLM_EXT_INVALID_ARGUMENT,
                "%s: byte %u of the arguments is set, and this library knows %u bytes of them: it is older than its "
                "caller. Use the library that belongs to the header",
                call, at, known_size);
        }
    }
    return TRTLLM_EXT_SUCCESS;
}

} // namespace trtllm_ext
