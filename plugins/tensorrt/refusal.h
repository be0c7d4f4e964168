/*
 * What an operation objects to: a sentence and the status it belongs to. Thrown inside the library only; the adapters
 * turn it into a logged line and a return value, because nothing may be thrown into TensorRT.
 */
#ifndef TRTLLM_EXT_PLUGINS_REFUSAL_H
#define TRTLLM_EXT_PLUGINS_REFUSAL_H

#include "plugins/kernels/trtllm_ext_kernels.h"

#include <stdexcept>
#include <string>

namespace trtllm_ext::plugins
{

class Refusal : public std::runtime_error
{
public:
    Refusal(trtllm_ext_status status, std::string const& sentence)
        : std::runtime_error(sentence)
        , status(status)
    {
    }

    explicit Refusal(std::string const& sentence)
        : Refusal(TRTLLM_EXT_INVALID_ARGUMENT, sentence)
    {
    }

    trtllm_ext_status status;
};

/* Throws what the kernels' library says about a call that did not succeed. */
inline void require_success(trtllm_ext_status status)
{
    if (status != TRTLLM_EXT_SUCCESS)
    {
        throw Refusal(status, trtllm_ext_last_error());
    }
}

} // namespace trtllm_ext::plugins

#endif
