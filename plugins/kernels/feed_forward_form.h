// What follows from a feed-forward form alone: its products, its buckets of token counts, its workspace. Pure.
#ifndef TRTLLM_EXT_FEED_FORWARD_FORM_H
#define TRTLLM_EXT_FEED_FORWARD_FORM_H

#include "feed_forward_product.h"
#include "trtllm_ext_kernels.h"

namespace trtllm_ext::feed_forward
{

using Form = trtllm_ext_feed_forward_form;

// A status and its sentence for what the kernels cannot compute.
trtllm_ext_status check_form(Form const& form);

/*
 * Token counts share their choices in buckets: 1, 2, 4 and so on up to max_num_tokens, which ends the last one.
 * A bucket is named by the largest count in it.
 */
constexpr int most_buckets = 64;
int bucket_index(int64_t num_tokens);                    // num_tokens at least 1
int64_t bucket_of(Form const& form, int64_t num_tokens); // 0 of no tokens, -1 of what a run refuses

/*
 * Whether the inner activation is a step of its own behind the product, with its biases, rather than a product's
 * epilogue: matrix product libraries have no epilogue for a gate, a clamp, or other activations than these few.
 */
bool activates_apart(Form const& form);

Product whole_inner_product(Form const& form); // with all that is done to it before u is rounded
Product inner_product(Form const& form);       // what an epilogue can: fc, and the gate by another weight
Product outer_product(Form const& form);

// In bytes from the workspace's begin, each at a multiple of 256.
struct Workspace
{
    int64_t inner_stride; // elements from a row of u to the next: rows begin at multiples of 16 bytes
    uint64_t gate;        // u begins at 0
    uint64_t scratch;     // of the product library
    uint64_t scratch_size;
    uint64_t size;
};

constexpr uint64_t workspace_alignment = 256;

// gate_rows: whether the gate's product has a buffer. scratch_size: of the product library.
Workspace workspace_of(Form const& form, int64_t num_tokens, bool gate_rows, uint64_t scratch_size);

// What a product library may use of its own: up to 64 MiB, less where that could not be of use.
uint64_t scratch_limit(Form const& form, int64_t num_tokens);

// Of everything in the form that choices depend on: all but max_num_tokens.
uint64_t digest(Form const& form);

// FNV-1a (Fowler, Noll, Vo) of bytes, 64 bits of it: tells damage and difference, not malice.
uint64_t hash_of(void const* bytes, size_t size);

} // namespace trtllm_ext::feed_forward

#endif
