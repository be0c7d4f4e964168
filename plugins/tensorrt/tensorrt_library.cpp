#include "plugins/tensorrt/tensorrt_library.h"

#include <NvInferRuntime.h>

#include <dlfcn.h>
#include <unwind.h>

#define TRTLLM_EXT_TEXT_OF(number) #number
#define TRTLLM_EXT_TEXT(number) TRTLLM_EXT_TEXT_OF(number)

namespace trtllm_ext::plugins
{

namespace
{

constexpr char LIBRARY[] = "libnvinfer.so." TRTLLM_EXT_TEXT(NV_TENSORRT_MAJOR);

/* The start of the file in memory that an address belongs to. */
void* file_of(void* address)
{
    Dl_info info{};
    return dladdr(address, &info) != 0 ? info.dli_fbase : nullptr;
}

struct Search
{
    void* file;
    bool found;
};

_Unwind_Reason_Code look_at_frame(_Unwind_Context* context, void* argument)
{
    auto* const search = static_cast<Search*>(argument);
    search->found = search->found || file_of(reinterpret_cast<void*>(_Unwind_GetIP(context))) == search->file;
    return search->found ? _URC_END_OF_STACK : _URC_NO_REASON;
}

} // namespace

void* tensorrt_symbol(char const* name) noexcept
{
    if (void* const symbol = dlsym(RTLD_DEFAULT, name))
    {
        return symbol;
    }
    // Python loads TensorRT without making its symbols global.
    void* const library = dlopen(LIBRARY, RTLD_LAZY | RTLD_NOLOAD);
    if (library == nullptr)
    {
        return nullptr;
    }
    void* const symbol = dlsym(library, name);
    dlclose(library);
    return symbol;
}

int32_t tensorrt_major() noexcept
{
    auto const version_of = tensorrt_function<decltype(getInferLibVersion)>("getInferLibVersion");
    if (version_of == nullptr)
    {
        return 0;
    }
    // 8601 is 8.6.1; since 10 it is 101401 for 10.14.1.
    int32_t const version = version_of();
    return version < 10000 ? version / 1000 : version / 10000;
}

bool called_by_tensorrt() noexcept
{
    Search search{file_of(tensorrt_symbol("getPluginRegistry")), false};
    if (search.file != nullptr)
    {
        _Unwind_Backtrace(look_at_frame, &search);
    }
    return search.found;
}

} // namespace trtllm_ext::plugins
