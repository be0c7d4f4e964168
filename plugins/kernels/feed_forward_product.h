// One matrix product of the feed-forward operation: what it computes, on what, and the plain kernel that can always.
#ifndef TRTLLM_EXT_FEED_FORWARD_PRODUCT_H
#define TRTLLM_EXT_FEED_FORWARD_PRODUCT_H

#include "trtllm_ext_kernels.h"

namespace trtllm_ext::feed_forward
{

/*
 * y = act(x weight^T + bias) [* (x gate_weight^T + gate_bias)] + residual, with clamp and gate_offset as
 * trtllm_ext_gated_activation has them; rounded once, at the end.
 */
struct Product
{
    int32_t type;       // trtllm_ext_type of everything
    bool tf32;          // whether float32 operands may be rounded to TF32
    int32_t activation; // trtllm_ext_activation
    bool gated;
    float clamp;
    float gate_offset;
    bool has_bias;
    bool has_residual;
    int64_t in_features;
    int64_t out_features;
};

// Strides are in elements from a row to the next; weights have no gaps. NULL is an operand that the product has not.
struct ProductArgs
{
    int64_t num_tokens;
    void const* x; // (num_tokens, in_features)
    int64_t x_stride;
    void const* weight; // (out_features, in_features)
    void const* bias;   // (out_features)
    void const* gate_weight;
    void const* gate_bias;
    void const* residual; // (num_tokens, out_features), may be y
    int64_t residual_stride;
    void* y; // (num_tokens, out_features)
    int64_t y_stride;
    void* scratch; // a product library's own
    uint64_t scratch_size;
};

// Any sizes, strides and alignments, in float32 throughout. Correct and plain; a small part of a device's speed.
trtllm_ext_status plain_product(Product const& product, ProductArgs const& args, trtllm_ext_stream stream);

} // namespace trtllm_ext::feed_forward

#endif
