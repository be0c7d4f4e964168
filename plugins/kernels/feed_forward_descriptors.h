/*
 * One matrix product as cublasLt is told of it.
 *
 * A row-major y = x weight^T is, to column-major cublasLt, y^T = weight x^T: the weight goes in as A, transposed, so
 * that the out features are its rows M and a bias runs along them; tokens are its columns N.
 */
#ifndef TRTLLM_EXT_FEED_FORWARD_DESCRIPTORS_H
#define TRTLLM_EXT_FEED_FORWARD_DESCRIPTORS_H

#include "cublaslt_library.h"
#include "feed_forward_product.h"

namespace trtllm_ext::feed_forward
{

// What plans promise cublasLt of every pointer; runs whose pointers and rows are less aligned ask it anew.
constexpr uint32_t planned_alignment = 16;

// What cublasLt reads of one product: made once, then written to for each run. For one thread at a time.
class Descriptors
{
public:
    Descriptors(cublaslt::Library const& library, cublaslt::Handle handle, Product const& product);
    ~Descriptors();
    Descriptors(Descriptors const&) = delete;
    Descriptors& operator=(Descriptors const&) = delete;

    // Takes over what differs from run to run: token count, strides, bias. What the creation met is told here too.
    cublaslt::Status describe(ProductArgs const& args);

    // The algorithms that cublasLt holds best, the best first, for the pointers' alignments; returns how many.
    int heuristics(ProductArgs const& args, cublaslt::HeuristicResult* results, int most);

    // Whether the algorithm computes what is described, in scratch memory of that size.
    bool accepts(cublaslt::Algorithm const& algorithm, uint64_t scratch_size);

    cublaslt::Status matmul(ProductArgs const& args, cublaslt::Algorithm const& algorithm, cublaslt::Stream stream);

private:
    cublaslt::Functions const& functions_;
    cublaslt::Handle const handle_;
    Product const product_;
    cublaslt::Status status_;
    cublaslt::Desc desc_ = nullptr;
    cublaslt::Layout weight_ = nullptr, x_ = nullptr, residual_ = nullptr, y_ = nullptr;
    cublaslt::Preference preference_ = nullptr;
};

// Whether operands are as well aligned as plans promise cublasLt, so that a bucket's choice is for them, too.
bool is_as_planned(Product const& product, ProductArgs const& args);

// The epilogue's name, such as "RELU_BIAS".
char const* epilogue_name(Product const& product);

} // namespace trtllm_ext::feed_forward

#endif
