#include "feed_forward_cublaslt.h"

namespace trtllm_ext::feed_forward
{
namespace
{

using namespace cublaslt;

// How many algorithms a run tries whose operands fit no choice.
constexpr int most_tried = 8;

} // namespace

bool is_refusal(Status status)
{
    return status == NOT_SUPPORTED || status == INVALID_VALUE || status == ARCH_MISMATCH;
}

CublasLtProduct::Borrowed::Borrowed(CublasLtProduct const& product)
    : product_(product)
{
    {
        std::lock_guard<std::mutex> const lock(product.mutex_);
        if (!product.idle_.empty())
        {
            descriptors_ = std::move(product.idle_.back());
            product.idle_.pop_back();
            return;
        }
    }
    descriptors_ = std::make_unique<Descriptors>(product.library_, product.handle_, product.product_);
    std::lock_guard<std::mutex> const lock(product.mutex_);
    // So that giving them back never allocates.
    product.idle_.reserve(++product.num_descriptors_);
}

CublasLtProduct::Borrowed::~Borrowed()
{
    std::lock_guard<std::mutex> const lock(product_.mutex_);
    product_.idle_.push_back(std::move(descriptors_));
}

CublasLtProduct::CublasLtProduct(Library const& library, Handle handle, Product const& product)
    : library_(library)
    , handle_(handle)
    , product_(product)
{
}

void CublasLtProduct::choose(ProductArgs const& planned)
{
    Borrowed descriptors(*this);
    HeuristicResult best{};
    if (descriptors->describe(planned) == SUCCESS && descriptors->heuristics(planned, &best, 1) == 1)
    {
        choices_[bucket_index(planned.num_tokens)] = {true, false, 0, best.algorithm};
    }
}

bool CublasLtProduct::take(Choice const& choice, ProductArgs const& planned)
{
    Borrowed descriptors(*this);
    if (descriptors->describe(planned) != SUCCESS || !descriptors->accepts(choice.algorithm, planned.scratch_size))
    {
        return false;
    }
    choices_[bucket_index(planned.num_tokens)] = choice;
    return true;
}

Status CublasLtProduct::run(ProductArgs const& args, Stream stream) const
{
    Borrowed descriptors(*this);
    Status status = descriptors->describe(args);
    if (status != SUCCESS)
    {
        return status;
    }
    Choice const& planned = choice(args.num_tokens);
    if (planned.is_there && is_as_planned(product_, args))
    {
        status = descriptors->matmul(args, planned.algorithm, stream);
        if (!is_refusal(status))
        {
            return status;
        }
    }
    HeuristicResult results[most_tried];
    int const found = descriptors->heuristics(args, results, most_tried);
    for (int i = 0; i < found; ++i)
    {
        status = descriptors->matmul(args, results[i].algorithm, stream);
        if (!is_refusal(status))
        {
            return status;
        }
    }
    return NOT_SUPPORTED;
}

} // namespace trtllm_ext::feed_forward
