/*
 * Matrix products through cublasLt, and which of its algorithms computes which bucket of token counts.
 *
 * A row-major y = x weight^T is, to column-major cublasLt, y^T = weight x^T: the weight goes in as A, transposed, so
 * that the out features are its rows M and a bias runs along them; tokens are its columns N.
 */
#ifndef TRTLLM_EXT_FEED_FORWARD_CUBLASLT_H
#define TRTLLM_EXT_FEED_FORWARD_CUBLASLT_H

#include "cublaslt_library.h"
#include "feed_forward_form.h"
#include "feed_forward_product.h"

#include <memory>
#include <mutex>
#include <vector>

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

// An algorithm for a bucket: the fastest of those timed, or the heuristic's first.
struct Choice
{
    bool is_there = false;
    bool is_tuned = false;
    float microseconds = 0;
    cublaslt::Algorithm algorithm{};
};

// One product of a plan, for all its buckets. Writing choices is for a single thread, all else for any number.
class CublasLtProduct
{
public:
    CublasLtProduct(cublaslt::Library const& library, cublaslt::Handle handle, Product const& product);

    // Makes the heuristic's first the choice of the bucket that `planned` (strides, token count) ends, if it has one.
    void choose(ProductArgs const& planned);

    /*
     * Launches the product: by the bucket's choice, else by what cublasLt has for exactly these operands. A refusal
     * (see is_refusal) where it has nothing; nothing was launched then.
     */
    cublaslt::Status run(ProductArgs const& args, cublaslt::Stream stream) const;

    // A choice from elsewhere; whether cublasLt accepts it for the bucket that `planned` ends.
    bool take(Choice const& choice, ProductArgs const& planned);

    cublaslt::Library const& library() const
    {
        return library_;
    }

    Product const& product() const
    {
        return product_;
    }

    Choice const& choice(int64_t num_tokens) const
    {
        return choices_[bucket_index(num_tokens)];
    }

    // Descriptors for the caller alone; they go back, for the next one, when it is done with them.
    class Borrowed;

private:
    cublaslt::Library const& library_;
    cublaslt::Handle const handle_;
    Product const product_;
    Choice choices_[most_buckets];
    // Runs neither allocate descriptors nor share them: as many are kept as threads were ever here at once.
    mutable std::mutex mutex_;
    mutable std::vector<std::unique_ptr<Descriptors>> idle_;
    mutable size_t num_descriptors_ = 0;
};

class CublasLtProduct::Borrowed
{
public:
    explicit Borrowed(CublasLtProduct const& product);
    ~Borrowed();
    Borrowed(Borrowed const&) = delete;
    Borrowed& operator=(Borrowed const&) = delete;

    Descriptors* operator->() const
    {
        return descriptors_.get();
    }

private:
    CublasLtProduct const& product_;
    std::unique_ptr<Descriptors> descriptors_;
};

// Whether operands are as well aligned as plans promise cublasLt, so that a bucket's choice is for them, too.
bool is_as_planned(Product const& product, ProductArgs const& args);

// Whether a status says "not this way" rather than "something broke": another way may be tried.
bool is_refusal(cublaslt::Status status);

// The epilogue's name, such as "RELU_BIAS".
char const* epilogue_name(Product const& product);

} // namespace trtllm_ext::feed_forward

#endif
