/*
 * The heuristic's order is an estimate: its first is often several per cent slower than the best of its first few
 * dozen. All of them are timed in a few rounds, then the fastest few in more rounds. In a round each runs once, one
 * behind the other without waiting in between, so that clocks and neighbours bear on all alike, and each round begins
 * with another one, as the first of a round meets an idle device.
 */
#include "feed_forward_tuning.h"

#include "status.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <vector>

namespace trtllm_ext::feed_forward
{
namespace
{

constexpr int most_candidates = 64;
constexpr int first_rounds = 3;
constexpr int most_finalists = 8;
constexpr int final_rounds = 21;

class Event
{
public:
    Event() = default;
    Event(Event const&) = delete;
    Event& operator=(Event const&) = delete;

    ~Event()
    {
        if (event_ != nullptr)
        {
            (void) cudaEventDestroy(event_);
        }
    }

    trtllm_ext_status create()
    {
        return from_cuda(cudaEventCreate(&event_), "feed_forward: an event to time by");
    }

    trtllm_ext_status record(trtllm_ext_stream stream)
    {
        return from_cuda(cudaEventRecord(event_, stream), "feed_forward: timing an algorithm");
    }

    cudaEvent_t get() const
    {
        return event_;
    }

private:
    cudaEvent_t event_ = nullptr;
};

struct Candidate
{
    cublaslt::Algorithm algorithm;
    std::vector<float> milliseconds;

    float median() const
    {
        std::vector<float> sorted = milliseconds;
        std::nth_element(sorted.begin(), sorted.begin() + sorted.size() / 2, sorted.end());
        return sorted[sorted.size() / 2];
    }
};

// What is timed: one product on one set of operands.
class Stopwatch
{
public:
    Stopwatch(CublasLtProduct const& product, ProductArgs const& args, trtllm_ext_stream stream)
        : descriptors_(product)
        , args_(args)
        , stream_(stream)
        , events_(most_candidates + 1)
    {
    }

    trtllm_ext_status prepare()
    {
        for (Event& event : events_)
        {
            TRTLLM_EXT_CHECK(event.create());
        }
        return TRTLLM_EXT_SUCCESS;
    }

    // Candidates that compute these operands, run once each; those that refuse are left out.
    trtllm_ext_status warm_up(std::vector<Candidate>& candidates)
    {
        if (descriptors_->describe(args_) != cublaslt::SUCCESS)
        {
            candidates.clear();
        }
        auto const refuses = [&](Candidate const& each)
        { return descriptors_->matmul(args_, each.algorithm, stream_) != cublaslt::SUCCESS; };
        candidates.erase(std::remove_if(candidates.begin(), candidates.end(), refuses), candidates.end());
        (void) cudaGetLastError();
        return from_cuda(cudaStreamSynchronize(stream_), "feed_forward: an algorithm that cublasLt offers");
    }

    trtllm_ext_status run_rounds(std::vector<Candidate>& candidates, int num_rounds)
    {
        for (int round = 0; round < num_rounds; ++round)
        {
            if (!candidates.empty())
            {
                std::rotate(candidates.begin(), candidates.begin() + 1, candidates.end());
            }
            TRTLLM_EXT_CHECK(run_round(candidates));
        }
        return TRTLLM_EXT_SUCCESS;
    }

private:
    trtllm_ext_status run_round(std::vector<Candidate>& candidates)
    {
        TRTLLM_EXT_CHECK(events_[0].record(stream_));
        for (size_t i = 0; i < candidates.size(); ++i)
        {
            cublaslt::Status const status = descriptors_->matmul(args_, candidates[i].algorithm, stream_);
            if (status != cublaslt::SUCCESS)
            {
                return fail(TRTLLM_EXT_CUBLAS_FAILURE, "feed_forward: an algorithm ran once and then answered %s",
                    cublaslt::name_of(status).c_str());
            }
            TRTLLM_EXT_CHECK(events_[i + 1].record(stream_));
        }
        TRTLLM_EXT_CHECK(from_cuda(cudaStreamSynchronize(stream_), "feed_forward: timing algorithms"));
        for (size_t i = 0; i < candidates.size(); ++i)
        {
            float elapsed = 0;
            TRTLLM_EXT_CHECK(from_cuda(cudaEventElapsedTime(&elapsed, events_[i].get(), events_[i + 1].get()),
                "feed_forward: timing algorithms"));
            candidates[i].milliseconds.push_back(elapsed);
        }
        return TRTLLM_EXT_SUCCESS;
    }

    CublasLtProduct::Borrowed descriptors_;
    ProductArgs const args_;
    trtllm_ext_stream const stream_;
    std::vector<Event> events_;
};

// What the heuristic offers for the whole bucket, so that the choice holds for every token count in it.
std::vector<Candidate> candidates_for(CublasLtProduct const& product, ProductArgs const& planned)
{
    CublasLtProduct::Borrowed descriptors(product);
    std::vector<cublaslt::HeuristicResult> results(most_candidates);
    int found = 0;
    if (descriptors->describe(planned) == cublaslt::SUCCESS)
    {
        found = descriptors->heuristics(planned, results.data(), most_candidates);
    }
    std::vector<Candidate> candidates;
    for (int i = 0; i < found; ++i)
    {
        candidates.push_back({results[static_cast<size_t>(i)].algorithm, {}});
    }
    return candidates;
}

void keep_fastest(std::vector<Candidate>& candidates, size_t most)
{
    std::sort(candidates.begin(), candidates.end(),
        [](Candidate const& a, Candidate const& b) { return a.median() < b.median(); });
    candidates.resize(std::min(candidates.size(), most));
}

trtllm_ext_status tune_product(
    CublasLtProduct& product, ProductArgs const& args, ProductArgs const& planned, trtllm_ext_stream stream)
{
    std::vector<Candidate> candidates = candidates_for(product, planned);
    Stopwatch stopwatch(product, args, stream);
    TRTLLM_EXT_CHECK(stopwatch.prepare());
    TRTLLM_EXT_CHECK(stopwatch.warm_up(candidates));
    TRTLLM_EXT_CHECK(stopwatch.run_rounds(candidates, first_rounds));
    keep_fastest(candidates, most_finalists);
    for (Candidate& each : candidates)
    {
        each.milliseconds.clear();
    }
    TRTLLM_EXT_CHECK(stopwatch.run_rounds(candidates, final_rounds));
    keep_fastest(candidates, 1);
    if (!candidates.empty())
    {
        Candidate const& best = candidates.front();
        product.take({true, true, best.median() * 1000, best.algorithm}, planned);
    }
    return TRTLLM_EXT_SUCCESS;
}

trtllm_ext_status check_tunable(Plan const& plan, Args const& args, trtllm_ext_stream stream)
{
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    TRTLLM_EXT_CHECK(from_cuda(cudaStreamIsCapturing(stream, &capture), "feed_forward: tuning"));
    if (capture != cudaStreamCaptureStatusNone)
    {
        return fail(TRTLLM_EXT_INVALID_ARGUMENT,
            "feed_forward: tuning waits for the device, which a stream in capture cannot; tune before the capture");
    }
    if (args.residual != nullptr && args.residual == args.y)
    {
        return fail(TRTLLM_EXT_INVALID_ARGUMENT,
            "feed_forward: tuning writes y many times, and y is the residual's memory; give y memory of its own here");
    }
    Workspace const workspace = cublaslt_workspace(plan.form, args.num_tokens);
    if (!is_as_planned(plan.cublaslt->inner.product(), inner_args(plan.form, args, workspace))
        || !is_as_planned(plan.cublaslt->outer.product(), outer_args(args, workspace)))
    {
        return fail(TRTLLM_EXT_INVALID_ARGUMENT,
            "feed_forward: tuning needs every operand at a multiple of %u bytes, and rows no less aligned than without "
            "gaps, as the runs have that its choices are for",
            planned_alignment);
    }
    return TRTLLM_EXT_SUCCESS;
}

} // namespace

trtllm_ext_status tune(Plan& plan, Args const& args, trtllm_ext_stream stream)
{
    TRTLLM_EXT_CHECK(check_tunable(plan, args, stream));
    // A run first, and then the outer product, so that this is timed on what an activation really leaves (zeros, for
    // one, are cheaper) and y is what a run writes. Timing the inner product overwrites u.
    TRTLLM_EXT_CHECK(choose_road(plan.form, args.num_tokens, plan.machine).run(plan, args, stream));
    int64_t const bucket = bucket_of(plan.form, args.num_tokens);
    Workspace const workspace = cublaslt_workspace(plan.form, args.num_tokens);
    TRTLLM_EXT_CHECK(tune_product(
        plan.cublaslt->outer, outer_args(args, workspace), planned_outer_args(plan.form, bucket), stream));
    TRTLLM_EXT_CHECK(tune_product(plan.cublaslt->inner, inner_args(plan.form, args, workspace),
        planned_inner_args(plan.form, bucket), stream));
    return from_cuda(cudaStreamSynchronize(stream), "feed_forward: tuning");
}

} // namespace trtllm_ext::feed_forward
