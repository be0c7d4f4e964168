#include "status.h"

#include <cstdarg>
#include <cstdio>

namespace
{

// A fixed buffer: a refusal must work where memory is out, and a library may be unloaded while threads live.
thread_local char last_sentence[1024] = "";

} // namespace

namespace trtllm_ext
{

trtllm_ext_status fail(trtllm_ext_status status, char const* format, ...) noexcept
{
    va_list values;
    va_start(values, format);
    std::vsnprintf(last_sentence, sizeof(last_sentence), format, values);
    va_end(values);
    return status;
}

trtllm_ext_status from_cuda(cudaError_t error, char const* tried) noexcept
{
    if (error == cudaSuccess)
    {
        return TRTLLM_EXT_SUCCESS;
    }
    (void) cudaGetLastError();
    return fail(TRTLLM_EXT_CUDA_FAILURE, "%s: CUDA says %s, \"%s\"", tried, cudaGetErrorName(error),
        cudaGetErrorString(error));
}

} // namespace trtllm_ext

extern "C" char const* trtllm_ext_last_error(void)
{
    return last_sentence;
}

extern "C" char const* trtllm_ext_status_name(trtllm_ext_status status)
{
    switch (status)
    {
    case TRTLLM_EXT_SUCCESS: return "SUCCESS";
    case TRTLLM_EXT_INVALID_ARGUMENT: return "INVALID_ARGUMENT";
    case TRTLLM_EXT_UNSUPPORTED_TYPE: return "UNSUPPORTED_TYPE";
    case TRTLLM_EXT_UNSUPPORTED_DEVICE: return "UNSUPPORTED_DEVICE";
    case TRTLLM_EXT_TOO_MANY_TOKENS: return "TOO_MANY_TOKENS";
    case TRTLLM_EXT_WORKSPACE_TOO_SMALL: return "WORKSPACE_TOO_SMALL";
    case TRTLLM_EXT_LIBRARY_MISSING: return "LIBRARY_MISSING";
    case TRTLLM_EXT_OUT_OF_MEMORY: return "OUT_OF_MEMORY";
    case TRTLLM_EXT_CUDA_FAILURE: return "CUDA_FAILURE";
    case TRTLLM_EXT_CUBLAS_FAILURE: return "CUBLAS_FAILURE";
    }
    return "UNKNOWN_STATUS";
}
