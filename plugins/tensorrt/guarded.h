/* Where TensorRT calls in: whatever goes wrong inside becomes a logged sentence and a value, never an exception. */
#ifndef TRTLLM_EXT_PLUGINS_GUARDED_H
#define TRTLLM_EXT_PLUGINS_GUARDED_H

#include "plugins/tensorrt/logging.h"
#include "plugins/tensorrt/refusal.h"

#include <exception>
#include <new>

namespace trtllm_ext::plugins
{

/* "FeedForward 'layers.3.mlp': sentence (TOO_MANY_TOKENS)". */
inline void report(char const* operation, std::string const& layer, trtllm_ext_status status, char const* sentence)
{
    log_error(std::string(operation) + " '" + layer + "': " + sentence + " (" + trtllm_ext_status_name(status) + ")");
}

/* Calls `body`; its status, or that of the Refusal it throws. */
template <typename Body>
trtllm_ext_status guarded(char const* operation, std::string const& layer, Body&& body) noexcept
{
    try
    {
        try
        {
            body();
            return TRTLLM_EXT_SUCCESS;
        }
        catch (Refusal const& refusal)
        {
            report(operation, layer, refusal.status, refusal.what());
            return refusal.status;
        }
        catch (std::exception const& exception)
        {
            report(operation, layer, TRTLLM_EXT_OUT_OF_MEMORY, exception.what());
            return TRTLLM_EXT_OUT_OF_MEMORY;
        }
    }
    catch (...)
    {
        return TRTLLM_EXT_OUT_OF_MEMORY;
    }
}

} // namespace trtllm_ext::plugins

#endif
