#include "cublaslt_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

namespace trtllm_ext::cublaslt
{
namespace
{

char const* const USUAL_FILES[] = {"libcublasLt.so.13", "libcublasLt.so.12"};

struct Opened
{
    std::unique_ptr<Library> library;
    std::string why_not;
};

bool find_functions(void* file, Functions& functions, std::string& why_not)
{
#define TRTLLM_EXT_FIND(member, exported, result, parameters)                                                          \
    functions.member = reinterpret_cast<decltype(functions.member)>(dlsym(file, #exported));                           \
    if (functions.member == nullptr)                                                                                   \
    {                                                                                                                  \
        why_not = "has no " #exported;                                                                                 \
        return false;                                                                                                  \
    }
    TRTLLM_EXT_CUBLASLT_FUNCTIONS(TRTLLM_EXT_FIND)
#undef TRTLLM_EXT_FIND
    return true;
}

// Adds to `opened` the library of that name, or to its sentence why not.
bool open_one(char const* name, int mode, Opened& opened)
{
    void* const file = dlopen(name, RTLD_NOW | RTLD_LOCAL | mode);
    if (file == nullptr)
    {
        char const* const error = dlerror();
        if (mode == 0)
        {
            opened.why_not += (opened.why_not.empty() ? "" : "; ") + std::string(error ? error : name);
        }
        return false;
    }
    auto library = std::make_unique<Library>();
    std::string problem;
    if (!find_functions(file, library->functions, problem))
    {
        opened.why_not += (opened.why_not.empty() ? "" : "; ") + std::string(name) + " " + problem;
        dlclose(file);
        return false;
    }
    library->file = name;
    library->version = library->functions.get_version();
    opened.library = std::move(library);
    return true;
}

Opened open_named(std::string const& name)
{
    Opened opened;
    if (!name.empty())
    {
        if (!open_one(name.c_str(), 0, opened))
        {
            opened.why_not = "TRTLLM_EXT_CUBLASLT names no cublasLt: " + opened.why_not;
        }
        return opened;
    }
    // What the process has already comes first: a framework's cublasLt need not be where the loader looks.
    for (int mode : {RTLD_NOLOAD, 0})
    {
        for (char const* file : USUAL_FILES)
        {
            if (open_one(file, mode, opened))
            {
                return opened;
            }
        }
    }
    opened.why_not = "cublasLt is not where the loader looks (LD_LIBRARY_PATH, or its file in TRTLLM_EXT_CUBLASLT): "
        + opened.why_not;
    return opened;
}

// Never destroyed: whatever runs while the process ends may still ask.
struct Cache
{
    std::mutex mutex;
    std::map<std::string, Opened> opened;
    std::map<std::pair<Library const*, int>, Handle> handles;
};

Cache& cache()
{
    static Cache* const only = new Cache;
    return *only;
}

} // namespace

Library const* open_library(std::string& why_not)
{
    char const* const named = std::getenv("TRTLLM_EXT_CUBLASLT");
    std::string const name = named == nullptr ? "" : named;
    std::lock_guard<std::mutex> const lock(cache().mutex);
    auto found = cache().opened.find(name);
    // A failure is tried again: a framework may have brought cublasLt along meanwhile.
    if (found == cache().opened.end() || found->second.library == nullptr)
    {
        found = cache().opened.insert_or_assign(name, open_named(name)).first;
    }
    why_not = found->second.why_not;
    return found->second.library.get();
}

Handle handle_of(Library const& library, int device, Status& status)
{
    std::lock_guard<std::mutex> const lock(cache().mutex);
    Handle& handle = cache().handles[{&library, device}];
    status = SUCCESS;
    if (handle == nullptr)
    {
        status = library.functions.create(&handle);
        if (status != SUCCESS)
        {
            handle = nullptr;
        }
    }
    return handle;
}

std::string name_of(Status status)
{
    char const* name = "status";
    switch (status)
    {
    case SUCCESS: name = "SUCCESS"; break;
    case NOT_INITIALIZED: name = "NOT_INITIALIZED"; break;
    case ALLOC_FAILED: name = "ALLOC_FAILED"; break;
    case INVALID_VALUE: name = "INVALID_VALUE"; break;
    case ARCH_MISMATCH: name = "ARCH_MISMATCH"; break;
    case MAPPING_ERROR: name = "MAPPING_ERROR"; break;
    case EXECUTION_FAILED: name = "EXECUTION_FAILED"; break;
    case INTERNAL_ERROR: name = "INTERNAL_ERROR"; break;
    case NOT_SUPPORTED: name = "NOT_SUPPORTED"; break;
    }
    return std::string(name) + " (" + std::to_string(static_cast<int>(status)) + ")";
}

} // namespace trtllm_ext::cublaslt
