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
 * Facts of the current device, asked from CUDA once a device. UNSUPPORTED_DEVICE, with a sentence, when there is none or
 * the library has no code for it.
 */
trtllm_ext_status current_device(DeviceFacts* facts) noexcept;

/*
 * Whether code compiled for `architectures`, as CMake and nvcc name them ("80;89;90a", "100-real"), runs on a compute
 * capability: numbers run on the same major version from their own minor version on, numbers with an 'a' on exactly
 * theirs, numbers with an 'f' as plain ones. "-virtual", and a number without any suffix as CMake reads it, bring code
 * that the driver compiles for every later device; that is not counted on, as nobody has checked it there.
 */
bool architectures_serve(char const* architectures, int compute_capability) noexcept;

} // namespace trtllm_ext

#endif
