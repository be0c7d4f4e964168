// cublasLt, opened at run time: this library loads, and computes by its own kernels, on machines without it.
#ifndef TRTLLM_EXT_CUBLASLT_LIBRARY_H
#define TRTLLM_EXT_CUBLASLT_LIBRARY_H

#include "cublaslt_abi.h"

#include <string>

namespace trtllm_ext::cublaslt
{

struct Library
{
    Functions functions;
    std::string file; // as it was opened
    uint64_t version; // such as 130002
};

/*
 * cublasLt, or NULL and a sentence that says what was tried. TRTLLM_EXT_CUBLASLT names the one file to open; otherwise
 * one that the process has already, then the loader's libcublasLt.so.13, then .12.
 * It stays open until the process ends; asking again for the same name costs a look into a table. Any thread may.
 */
Library const* open_library(std::string& why_not);

/*
 * The handle for the current device, whose number is given, or NULL where cublasLt refuses (status says why). One a
 * device for the whole process, never destroyed: what cublasLt keeps for it on the device is kept once.
 */
Handle handle_of(Library const& library, int device, Status& status);

// Such as "NOT_SUPPORTED (15)".
std::string name_of(Status status);

} // namespace trtllm_ext::cublaslt

#endif
