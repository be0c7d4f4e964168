/* What the calls of the C interface check before they launch. Sentences begin with `call`, the operation's name. */
#ifndef TRTLLM_EXT_ARGUMENTS_H
#define TRTLLM_EXT_ARGUMENTS_H

#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "status.h"
#include "trtllm_ext_kernels.h"

namespace trtllm_ext
{

/* Rows in memory. data: NULL where the caller has none. */
struct MatrixArgument
{
    char const* name;
    void const* data;
    int64_t stride; // elements from a row to the next
    int element_size;
};

/* A row that all rows of the matrices share, such as a weight. */
struct VectorArgument
{
    char const* name;
    void const* data;
    int element_size;
};

/* Bytes of an element; 0 for NO_TYPE and numbers that are no type. */
int size_of_type(int32_t type) noexcept;

/* INVALID_ARGUMENT unless 0 <= num_tokens and 1 <= width, both small enough that no offset leaves 64 bits. */
trtllm_ext_status check_sizes(char const* call, int64_t num_tokens, char const* width_name, int64_t width) noexcept;

/* UNSUPPORTED_TYPE unless it is FLOAT32, FLOAT16 or BFLOAT16. */
trtllm_ext_status check_float_type(char const* call, int32_t type) noexcept;

/* INVALID_ARGUMENT unless `value` is a number from `least` to `most`, the ends of an enumeration of that name. */
trtllm_ext_status check_choice(
    char const* call, char const* name, char const* enumeration, int32_t value, int32_t least, int32_t most) noexcept;

/* INVALID_ARGUMENT for infinity and NaN. */
trtllm_ext_status check_finite(char const* call, char const* name, float value) noexcept;

/* INVALID_ARGUMENT for a clamp below 0, infinities, and what belongs to a gate without one. */
trtllm_ext_status check_gate(
    char const* call, bool gated, bool has_gate_bias, float clamp, float gate_offset) noexcept;

/* INVALID_ARGUMENT when it is NULL. */
trtllm_ext_status check_given(char const* call, char const* name, void const* data) noexcept;

/*
 * INVALID_ARGUMENT for a stride below the width (with more than one row) and an address that its elements cannot have.
 */
trtllm_ext_status check_matrix(
    char const* call, MatrixArgument const& matrix, int64_t num_tokens, int64_t width) noexcept;
trtllm_ext_status check_vector(char const* call, VectorArgument const& vector) noexcept;

/*
 * INVALID_ARGUMENT when an element of `output` shares memory with one of `other`, unless `may_be_same` and they are the
 * same rows. Halves of one buffer, one beside the other, share nothing.
 */
trtllm_ext_status check_apart(char const* call, MatrixArgument const& output, MatrixArgument const& other,
    int64_t num_tokens, int64_t width, bool may_be_same) noexcept;
/* vector_width: how many elements the vector has; 0: as many as a row. */
trtllm_ext_status check_apart(char const* call, MatrixArgument const& output, VectorArgument const& other,
    int64_t num_tokens, int64_t width, int64_t vector_width = 0) noexcept;

/* Whether all rows of the matrices begin at multiples of `bytes`; those that are not there do. */
bool rows_aligned(std::initializer_list<MatrixArgument> matrices, int64_t num_tokens, int bytes) noexcept;
bool vectors_aligned(std::initializer_list<VectorArgument> vectors, int bytes) noexcept;

namespace detail
{
trtllm_ext_status check_struct(
    char const* call, void const* given, uint32_t size, uint32_t known_size, uint32_t least_size) noexcept;
}

/*
 * Copies a structure that begins with its size. Fields that the caller does not have become 0; fields that only the
 * caller has must be 0, as nothing here would heed them. least_size: that of the structure's first version.
 * INVALID_ARGUMENT for NULL, a size below that, and such fields.
 */
template <typename Struct>
trtllm_ext_status take_struct(char const* call, Struct const* given, uint32_t least_size, Struct* taken) noexcept
{
    uint32_t size = 0;
    if (given != nullptr)
    {
        std::memcpy(&size, given, sizeof(size));
    }
    TRTLLM_EXT_CHECK(detail::check_struct(call, given, size, sizeof(Struct), least_size));
    *taken = Struct{};
    std::memcpy(taken, given, size < sizeof(Struct) ? size : sizeof(Struct));
    return TRTLLM_EXT_SUCCESS;
}

} // namespace trtllm_ext

#endif
