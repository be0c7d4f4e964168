/* How a call says no: a status, and a sentence for people that the thread keeps. */
#ifndef TRTLLM_EXT_STATUS_H
#define TRTLLM_EXT_STATUS_H

#include <cuda_runtime_api.h>

#include "trtllm_ext_kernels.h"

namespace trtllm_ext
{

/*
 * Keeps a sentence, made as printf makes it and cut off after 1023 bytes, for trtllm_ext_last_error(); returns
 * `status`. Sentences say what the value was, what was expected and what to do, without a final full stop. Allocates
 * nothing.
 */
__attribute__((format(printf, 2, 3))) trtllm_ext_status fail(
    trtllm_ext_status status, char const* format, ...) noexcept;

/*
 * SUCCESS for cudaSuccess; else CUDA_FAILURE with what was tried and CUDA's own words. A CUDA error that does not stick
 * is taken back from the runtime, so that the caller's next look at it does not find ours.
 */
trtllm_ext_status from_cuda(cudaError_t error, char const* tried) noexcept;

} // namespace trtllm_ext

/* Returns from the function with the status of `call`, unless that is SUCCESS. */
#define TRTLLM_EXT_CHECK(call)                                                                                         \
    do                                                                                                                 \
    {                                                                                                                  \
        trtllm_ext_status const checked_status = (call);                                                               \
        if (checked_status != TRTLLM_EXT_SUCCESS)                                                                      \
        {                                                                                                              \
            return checked_status;                                                                                     \
        }                                                                                                              \
    } while (false)

#endif
