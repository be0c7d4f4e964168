/*
 * What this library is, as JSON between two markers: to be read from the file without loading it, so that a library for
 * another TensorRT is refused before anything of it runs.
 */
#include "plugins/tensorrt/generated/operations.h"

#include <NvInferVersion.h>
#include <cuda_runtime_api.h>

#include "plugins/kernels/trtllm_ext_kernels.h"

#include <cstddef>

#ifndef TRTLLM_EXT_ARCHITECTURES
#error "Say which architectures are compiled: -DTRTLLM_EXT_ARCHITECTURES='\"90a\"'"
#endif

namespace
{

struct Text
{
    char characters[1024] = {};
    size_t size = 0;

    constexpr void add(char const* text)
    {
        while (*text != '\0')
        {
            characters[size++] = *text++;
        }
    }

    constexpr void add(int number)
    {
        if (number >= 10)
        {
            add(number / 10);
        }
        characters[size++] = static_cast<char>('0' + number % 10);
    }

    template <typename... Parts>
    constexpr void add_all(Parts... parts)
    {
        (add(parts), ...);
    }
};

constexpr Text info()
{
    Text text;
    text.add_all("TRTLLM_EXT_PLUGINS_INFO_BEGIN");
    text.add_all("{\"tensorrt\": \"", NV_TENSORRT_MAJOR, ".", NV_TENSORRT_MINOR, ".", NV_TENSORRT_PATCH, "\", ");
    text.add_all("\"tensorrt_major\": ", NV_TENSORRT_MAJOR, ", \"kernels_abi\": ", TRTLLM_EXT_KERNELS_ABI, ", ");
    // CUDART_VERSION is 13000 for 13.0.
    text.add_all("\"cuda\": \"", CUDART_VERSION / 1000, ".", CUDART_VERSION % 1000 / 10, "\", ");
    text.add_all("\"architectures\": \"", TRTLLM_EXT_ARCHITECTURES, "\", ");
    text.add_all("\"plugins\": ", TRTLLM_EXT_PLUGINS_JSON, "}");
    text.add_all("TRTLLM_EXT_PLUGINS_INFO_END");
    return text;
}

[[gnu::used]] constexpr Text text = info();

} // namespace
