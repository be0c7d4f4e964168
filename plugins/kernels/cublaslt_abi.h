/*
 * The part of cublasLt's binary interface that is used here, in declarations of our own.
 *
 * cublasLt is opened at run time, versions 12 and 13 alike, so what counts is the binary interface that both have, not
 * one version's header. Without the header a build needs no cuBLAS, and the same sources compile where CUDA's headers
 * are replaced (tests on the CPU). Where the header is there, cublaslt_abi_check.cpp compares every number, size and
 * signature with it at compile time.
 */
#ifndef TRTLLM_EXT_CUBLASLT_ABI_H
#define TRTLLM_EXT_CUBLASLT_ABI_H

#include <stddef.h>
#include <stdint.h>

struct CUstream_st;

namespace trtllm_ext::cublaslt
{

// cublasStatus_t: those that are told apart here.
enum Status : int32_t
{
    SUCCESS = 0,
    NOT_INITIALIZED = 1,
    ALLOC_FAILED = 3,
    INVALID_VALUE = 7,
    ARCH_MISMATCH = 8,
    MAPPING_ERROR = 11,
    EXECUTION_FAILED = 13,
    INTERNAL_ERROR = 14,
    NOT_SUPPORTED = 15
};

// cudaDataType_t
enum DataType : int32_t
{
    R_32F = 0,
    R_16F = 2,
    R_16BF = 14
};

// cublasComputeType_t
enum ComputeType : int32_t
{
    COMPUTE_32F = 68,
    COMPUTE_32F_FAST_TF32 = 77
};

// cublasOperation_t
enum Operation : int32_t
{
    OP_N = 0,
    OP_T = 1
};

// cublasLtEpilogue_t; BIAS is a bit, and GELU the tanh form.
enum Epilogue : uint32_t
{
    EPILOGUE_DEFAULT = 1,
    EPILOGUE_RELU = 2,
    EPILOGUE_BIAS = 4,
    EPILOGUE_RELU_BIAS = 6,
    EPILOGUE_GELU = 32,
    EPILOGUE_GELU_BIAS = 36
};

// cublasLtMatrixLayoutAttribute_t
enum LayoutAttribute : int32_t
{
    LAYOUT_TYPE = 0, // uint32_t
    LAYOUT_ROWS = 2, // uint64_t
    LAYOUT_COLS = 3, // uint64_t
    LAYOUT_LD = 4    // int64_t
};

// cublasLtMatmulDescAttributes_t
enum DescAttribute : int32_t
{
    DESC_TRANSA = 3,         // int32_t
    DESC_TRANSB = 4,         // int32_t
    DESC_EPILOGUE = 7,       // uint32_t
    DESC_BIAS_POINTER = 8,   // void const*
    DESC_BIAS_DATA_TYPE = 26 // int32_t
};

// cublasLtMatmulPreferenceAttributes_t
enum PreferenceAttribute : int32_t
{
    PREF_MAX_WORKSPACE_BYTES = 1,   // uint64_t
    PREF_REDUCTION_SCHEME_MASK = 3, // uint32_t: of ReductionScheme
    PREF_MIN_ALIGNMENT_A_BYTES = 5, // uint32_t, as those of B, C and D
    PREF_MIN_ALIGNMENT_B_BYTES = 6,
    PREF_MIN_ALIGNMENT_C_BYTES = 7,
    PREF_MIN_ALIGNMENT_D_BYTES = 8
};

// cublasLtReductionScheme_t, of products that are split along K; none at all is always allowed.
enum ReductionScheme : uint32_t
{
    REDUCTION_SCHEME_INPLACE = 1, // parts are rounded to the output's type and added there
    REDUCTION_SCHEME_COMPUTE_TYPE = 2,
    REDUCTION_SCHEME_OUTPUT_TYPE = 4
};

// cublasLtMatmulAlgo_t: bytes that only cublasLt reads; they may be kept and given to the same version again.
struct Algorithm
{
    uint64_t data[8];
};

// cublasLtMatmulHeuristicResult_t
struct HeuristicResult
{
    Algorithm algorithm;
    size_t workspace_size;
    Status state;
    float waves_count;
    int32_t reserved[4];
};

using Handle = void*;
using Layout = void*;
using Desc = void*;
using Preference = void*;
using Stream = CUstream_st*;

// The functions, by the name that the library exports: X(member, exported name, result, parameters).
// Matmul: D = alpha op(A) op(B) + beta C, column-major, alpha and beta on the host; then the epilogue.
#define TRTLLM_EXT_CUBLASLT_FUNCTIONS(X)                                                                               \
    X(get_version, cublasLtGetVersion, size_t, (void))                                                                 \
    X(create, cublasLtCreate, Status, (Handle*))                                                                       \
    X(matmul, cublasLtMatmul, Status,                                                                                  \
        (Handle, Desc, void const* alpha, void const* a, Layout, void const* b, Layout, void const* beta,              \
            void const* c, Layout, void* d, Layout, Algorithm const*, void* workspace, size_t, Stream))                \
    X(layout_create, cublasLtMatrixLayoutCreate, Status,                                                               \
        (Layout*, DataType, uint64_t rows, uint64_t cols, int64_t ld))                                                 \
    X(layout_destroy, cublasLtMatrixLayoutDestroy, Status, (Layout))                                                   \
    X(layout_set, cublasLtMatrixLayoutSetAttribute, Status, (Layout, LayoutAttribute, void const*, size_t))            \
    X(desc_create, cublasLtMatmulDescCreate, Status, (Desc*, ComputeType, DataType scale))                             \
    X(desc_destroy, cublasLtMatmulDescDestroy, Status, (Desc))                                                         \
    X(desc_set, cublasLtMatmulDescSetAttribute, Status, (Desc, DescAttribute, void const*, size_t))                    \
    X(preference_create, cublasLtMatmulPreferenceCreate, Status, (Preference*))                                        \
    X(preference_destroy, cublasLtMatmulPreferenceDestroy, Status, (Preference))                                       \
    X(preference_set, cublasLtMatmulPreferenceSetAttribute, Status,                                                    \
        (Preference, PreferenceAttribute, void const*, size_t))                                                        \
    X(heuristic, cublasLtMatmulAlgoGetHeuristic, Status,                                                               \
        (Handle, Desc, Layout a, Layout b, Layout c, Layout d, Preference, int requested, HeuristicResult*,            \
            int* found))                                                                                               \
    X(check, cublasLtMatmulAlgoCheck, Status,                                                                          \
        (Handle, Desc, Layout a, Layout b, Layout c, Layout d, Algorithm const*, HeuristicResult*))

struct Functions
{
#define TRTLLM_EXT_MEMBER(member, exported, result, parameters) result(*member) parameters;
    TRTLLM_EXT_CUBLASLT_FUNCTIONS(TRTLLM_EXT_MEMBER)
#undef TRTLLM_EXT_MEMBER
};

} // namespace trtllm_ext::cublaslt

#endif
