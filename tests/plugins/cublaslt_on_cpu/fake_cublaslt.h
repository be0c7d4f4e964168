/*
 * A cublasLt that computes on the CPU, for tests: what plugins/kernels calls of it, and knobs to play its moods.
 *
 * It is stricter than the real one. Sizes of attributes, shapes and leading dimensions that do not fit each other, an
 * algorithm's bytes that were changed, and alignments that were promised and not kept are all refused, and what was
 * created and not destroyed is counted.
 */
#ifndef FAKE_CUBLASLT_H
#define FAKE_CUBLASLT_H

#include "plugins/kernels/cublaslt_abi.h"

#include <atomic>

namespace fake_cublaslt
{

using namespace trtllm_ext::cublaslt;

/*
 * Algorithms are numbered from 0, in the heuristic's order. Those below `first_for_any` need operands at multiples of
 * 16 bytes; algorithm i needs (i % 4) KiB and `scratch` bytes of scratch memory, and fills it. The one named `rounding`
 * adds the parts of a split product in the output's type.
 */
constexpr int first_for_any = 32;
constexpr int rounding = 5;

// Set and read by tests, through fake_cublaslt_knob().
struct Knobs
{
    std::atomic<int64_t> version{130002};
    std::atomic<int64_t> num_algorithms{40};
    std::atomic<int64_t> scratch{0};
    std::atomic<int64_t> fastest{-1}; // all others take slow_us longer; -1: none does
    std::atomic<int64_t> slow_us{0};
    std::atomic<int64_t> refused{-1};        // this algorithm is offered, and refused when it is to run
    std::atomic<int64_t> refused_rows{-1};   // products of so many out features are refused altogether
    std::atomic<int64_t> narrow_columns{-1}; // products of so many tokens are for algorithms for any operands only
    std::atomic<int64_t> broken{0};          // products fail
    std::atomic<int64_t> handles_refused{0}; // cublasLtCreate answers NOT_INITIALIZED
    // What was done.
    std::atomic<int64_t> live{0}; // created, not yet destroyed
    std::atomic<int64_t> created{0};
    std::atomic<int64_t> queries{0}; // calls of the heuristic
    std::atomic<int64_t> products{0};
    std::atomic<int64_t> broken_promises{0}; // operands less aligned than their algorithm needs
    // Of the last products, a byte each, the last one's lowest.
    std::atomic<int64_t> algorithms{0};
    std::atomic<int64_t> epilogues{0};
    // Of the last product.
    std::atomic<int64_t> compute_type{0};
    std::atomic<int64_t> beta{0};
    std::atomic<int64_t> in_place{0};
};

extern Knobs knobs;

struct LayoutData
{
    DataType type;
    uint64_t rows;
    uint64_t columns;
    int64_t ld;
};

struct DescData
{
    ComputeType compute_type;
    DataType scale_type;
    int32_t transa = OP_N;
    int32_t transb = OP_N;
    uint32_t epilogue = EPILOGUE_DEFAULT;
    void const* bias = nullptr;
    int32_t bias_type = -1; // that of D
};

struct PreferenceData
{
    uint64_t scratch_size = 0;
    uint32_t reduction_schemes = 7;
    uint32_t alignments[4] = {256, 256, 256, 256}; // of A, B, C, D
};

// D = epilogue(op(A) op(B) + beta C), column-major.
struct Problem
{
    DescData const& desc;
    LayoutData const& a;
    LayoutData const& b;
    LayoutData const& c;
    LayoutData const& d;

    bool fits() const; // whether the shapes belong together
    uint64_t depth() const;
};

struct Operands
{
    float alpha, beta;
    void const* a;
    void const* b;
    void const* c;
    void* d;
};

void compute(Problem const& problem, Operands const& operands);

} // namespace fake_cublaslt

#endif
