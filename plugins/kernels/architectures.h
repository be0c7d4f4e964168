/* Which devices code that was compiled for some architectures runs on: a pure function of their names. */
#ifndef TRTLLM_EXT_ARCHITECTURES_H
#define TRTLLM_EXT_ARCHITECTURES_H

#include <cstdlib>
#include <cstring>

namespace trtllm_ext
{

/*
 * Whether code compiled for `architectures`, as CMake and nvcc name them ("80;89;90a", "100-real"), runs on a compute
 * capability: numbers run on the same major version from their own minor version on, numbers with an 'a' on exactly
 * theirs, numbers with an 'f' as plain ones. "-virtual", and a number without any suffix as CMake reads it, bring code
 * that the driver compiles for every later device; that is not counted on, as nobody has checked it there.
 */
inline bool architectures_serve(char const* architectures, int compute_capability) noexcept
{
    for (char const* at = architectures; *at != '\0';)
    {
        char* end = nullptr;
        long const number = std::strtol(at, &end, 10);
        if (end == at)
        {
            ++at;
            continue;
        }
        bool const same_major = number / 10 == compute_capability / 10;
        bool const is_virtual = std::strncmp(end, "-virtual", 8) == 0;
        bool const serves = *end == 'a' ? number == compute_capability : same_major && number <= compute_capability;
        if (serves && !is_virtual)
        {
            return true;
        }
        at = end + std::strcspn(end, ";, ");
    }
    return false;
}

} // namespace trtllm_ext

#endif
