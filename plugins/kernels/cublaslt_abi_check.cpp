/*
 * Compares cublaslt_abi.h with cublasLt's own header at compile time. Nothing to run, and empty without the header.
 */
#if defined(__has_include)
#if __has_include(<cublasLt.h>)

#include "cublaslt_abi.h"

#include <cublasLt.h>

#include <type_traits>

namespace trtllm_ext::cublaslt
{
namespace
{

#define SAME(own, theirs) static_assert(static_cast<int64_t>(own) == static_cast<int64_t>(theirs), #theirs)

SAME(SUCCESS, CUBLAS_STATUS_SUCCESS);
SAME(NOT_INITIALIZED, CUBLAS_STATUS_NOT_INITIALIZED);
SAME(ALLOC_FAILED, CUBLAS_STATUS_ALLOC_FAILED);
SAME(INVALID_VALUE, CUBLAS_STATUS_INVALID_VALUE);
SAME(ARCH_MISMATCH, CUBLAS_STATUS_ARCH_MISMATCH);
SAME(MAPPING_ERROR, CUBLAS_STATUS_MAPPING_ERROR);
SAME(EXECUTION_FAILED, CUBLAS_STATUS_EXECUTION_FAILED);
SAME(INTERNAL_ERROR, CUBLAS_STATUS_INTERNAL_ERROR);
SAME(NOT_SUPPORTED, CUBLAS_STATUS_NOT_SUPPORTED);
SAME(R_32F, CUDA_R_32F);
SAME(R_16F, CUDA_R_16F);
SAME(R_16BF, CUDA_R_16BF);
SAME(COMPUTE_32F, CUBLAS_COMPUTE_32F);
SAME(COMPUTE_32F_FAST_TF32, CUBLAS_COMPUTE_32F_FAST_TF32);
SAME(OP_N, CUBLAS_OP_N);
SAME(OP_T, CUBLAS_OP_T);
SAME(EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_DEFAULT);
SAME(EPILOGUE_RELU, CUBLASLT_EPILOGUE_RELU);
SAME(EPILOGUE_BIAS, CUBLASLT_EPILOGUE_BIAS);
SAME(EPILOGUE_RELU_BIAS, CUBLASLT_EPILOGUE_RELU_BIAS);
SAME(EPILOGUE_GELU, CUBLASLT_EPILOGUE_GELU);
SAME(EPILOGUE_GELU_BIAS, CUBLASLT_EPILOGUE_GELU_BIAS);
SAME(LAYOUT_TYPE, CUBLASLT_MATRIX_LAYOUT_TYPE);
SAME(LAYOUT_ROWS, CUBLASLT_MATRIX_LAYOUT_ROWS);
SAME(LAYOUT_COLS, CUBLASLT_MATRIX_LAYOUT_COLS);
SAME(LAYOUT_LD, CUBLASLT_MATRIX_LAYOUT_LD);
SAME(DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSA);
SAME(DESC_TRANSB, CUBLASLT_MATMUL_DESC_TRANSB);
SAME(DESC_EPILOGUE, CUBLASLT_MATMUL_DESC_EPILOGUE);
SAME(DESC_BIAS_POINTER, CUBLASLT_MATMUL_DESC_BIAS_POINTER);
SAME(DESC_BIAS_DATA_TYPE, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE);
SAME(PREF_MAX_WORKSPACE_BYTES, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
SAME(PREF_REDUCTION_SCHEME_MASK, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
SAME(REDUCTION_SCHEME_INPLACE, CUBLASLT_REDUCTION_SCHEME_INPLACE);
SAME(REDUCTION_SCHEME_COMPUTE_TYPE, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
SAME(REDUCTION_SCHEME_OUTPUT_TYPE, CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE);
SAME(PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
SAME(PREF_MIN_ALIGNMENT_B_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
SAME(PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
SAME(PREF_MIN_ALIGNMENT_D_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);

SAME(sizeof(Algorithm), sizeof(cublasLtMatmulAlgo_t));
SAME(sizeof(HeuristicResult), sizeof(cublasLtMatmulHeuristicResult_t));
SAME(offsetof(HeuristicResult, workspace_size), offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
SAME(offsetof(HeuristicResult, state), offsetof(cublasLtMatmulHeuristicResult_t, state));
SAME(offsetof(HeuristicResult, waves_count), offsetof(cublasLtMatmulHeuristicResult_t, wavesCount));

// Own and theirs are passed alike: both pointers, or both numbers of one size.
template <typename Own, typename Theirs>
constexpr bool passed_alike = sizeof(Own) == sizeof(Theirs) && std::is_pointer_v<Own> == std::is_pointer_v<Theirs>;

template <typename Own, typename Theirs>
struct CalledAlike : std::false_type
{
};

template <typename Result, typename... Parameters, typename TheirResult, typename... TheirParameters>
struct CalledAlike<Result (*)(Parameters...), TheirResult (*)(TheirParameters...)>
{
    static constexpr bool all()
    {
        if constexpr (sizeof...(Parameters) == sizeof...(TheirParameters))
        {
            return passed_alike<Result, TheirResult> && (passed_alike<Parameters, TheirParameters> && ...);
        }
        return false;
    }

    static constexpr bool value = all();
};

#define CALLED_ALIKE(member, exported, result, parameters)                                                             \
    static_assert(CalledAlike<decltype(Functions::member), decltype(&exported)>::value, #exported);
TRTLLM_EXT_CUBLASLT_FUNCTIONS(CALLED_ALIKE)

} // namespace
} // namespace trtllm_ext::cublaslt

#endif
#endif
