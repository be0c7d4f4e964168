/*
 * The words that CUDA adds to C++. CUDA's own host_defines.h has already made most of them empty for other compilers.
 *
 * Shared memory is static memory: blocks run one after another, under one lock. shared_memory.ld puts these variables
 * together, so that the launcher can fill all of them before a block: what a block reads without having written it is not
 * what the last one left.
 */
#ifndef CUDA_ON_CPU_KEYWORDS_H
#define CUDA_ON_CPU_KEYWORDS_H

#undef __shared__
#undef __launch_bounds__
#undef __grid_constant__
#undef __forceinline__
#define __shared__ static
#define __launch_bounds__(...)
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))

#endif
