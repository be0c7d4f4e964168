/*
 * TensorRT's library, as far as this process has it. This library is not linked to it: it loads without TensorRT, and
 * works with whichever file of the right major version the process has loaded.
 */
#ifndef TRTLLM_EXT_PLUGINS_TENSORRT_LIBRARY_H
#define TRTLLM_EXT_PLUGINS_TENSORRT_LIBRARY_H

#include <cstdint>

namespace trtllm_ext::plugins
{

/* The address of one of its functions, or nullptr. Loads nothing. */
void* tensorrt_symbol(char const* name) noexcept;

template <typename Function>
Function* tensorrt_function(char const* name) noexcept
{
    return reinterpret_cast<Function*>(tensorrt_symbol(name));
}

/* Its major version, or 0 where there is none. */
int32_t tensorrt_major() noexcept;

/* Whether one of TensorRT's functions is under way on this thread: it loads us, or calls us. */
bool called_by_tensorrt() noexcept;

} // namespace trtllm_ext::plugins

#endif
