/* What the launchers have to know of the current device. */
#ifndef TRTLLM_EXT_DEVICE_FACTS_H
#define TRTLLM_EXT_DEVICE_FACTS_H

#include "trtllm_ext_kernels.h"

namespace trtllm_ext
{

struct DeviceFacts
{
    int ordinal;
    int compute_capability; // 90 for 9.0
    int num_multiprocessors;
};

/*
 * Facts of the current device, asked from CUDA once a device. UNSUPPORTED_DEVICE, with a sentence, when there is none
 * or the library has no code for it.
 */
trtllm_ext_status current_device(DeviceFacts* facts) noexcept;

} // namespace trtllm_ext

#endif
