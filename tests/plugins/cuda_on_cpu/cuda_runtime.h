/*
 * CUDA's C++ as plain C++17, so that kernels run on the CPU: included in the place of CUDA's own header of this name.
 *
 * Types and the declarations of the runtime are CUDA's own (of nvcc's include folder); runtime.cpp defines those
 * functions of the runtime that the kernels' library calls. A block's threads are fibers, and blocks run one after
 * another: block.h. What is checked that a GPU leaves unsaid: see README.md.
 */
#ifndef CUDA_ON_CPU_CUDA_RUNTIME_H
#define CUDA_ON_CPU_CUDA_RUNTIME_H

#include <cuda_runtime_api.h>
#include <vector_functions.h>

#include "block.h"
#include "keywords.h"
#include "launch.h"
#include "memory_operations.h"
#include "numbers.h"
#include "warp_operations.h"

#endif
