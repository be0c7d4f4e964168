/* What residual_norm checks before it launches. */
#ifndef TRTLLM_EXT_RESIDUAL_NORM_CHECK_H
#define TRTLLM_EXT_RESIDUAL_NORM_CHECK_H

#include "trtllm_ext_kernels.h"

namespace trtllm_ext::residual_norm
{

constexpr char CALL[] = "residual_norm";

/* Types, numbers and what belongs together; not the memory. */
trtllm_ext_status check_form(trtllm_ext_residual_norm_args const& args) noexcept;

/* Pointers and strides, of at least one token. wide: whether all of it is vectors of 16 bytes. */
trtllm_ext_status check_memory(trtllm_ext_residual_norm_args const& args, bool* wide) noexcept;

} // namespace trtllm_ext::residual_norm

#endif
