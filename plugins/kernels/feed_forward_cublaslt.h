/*
 * Matrix products through cublasLt: which of its algorithms computes which bucket of token counts, and their runs.
 */
#ifndef TRTLLM_EXT_FEED_FORWARD_CUBLASLT_H
#define TRTLLM_EXT_FEED_FORWARD_CUBLASLT_H

#include "feed_forward_descriptors.h"
#include "feed_forward_form.h"

#include <memory>
#include <mutex>
#include <vector>

namespace trtllm_ext::feed_forward
{

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

// Whether a status says "not this way" rather than "something broke": another way may be tried.
bool is_refusal(cublaslt::Status status);

} // namespace trtllm_ext::feed_forward

#endif
