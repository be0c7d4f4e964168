/* Barriers, and what the lanes of a warp do together: shuffles, votes, reductions. */
#ifndef CUDA_ON_CPU_WARP_OPERATIONS_H
#define CUDA_ON_CPU_WARP_OPERATIONS_H

#include <cstdint>
#include <cstring>

#include "block.h"

// Where the kernel calls the operation: defaults are taken at the caller's line.
#define CUDA_ON_CPU_PLACE char const *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(CUDA_ON_CPU_PLACE)
{
    cuda_on_cpu::barrier({"__syncthreads", file, line}, 0);
}

inline int __syncthreads_count(int predicate, CUDA_ON_CPU_PLACE)
{
    return cuda_on_cpu::barrier({"__syncthreads_count", file, line}, predicate);
}

inline int __syncthreads_or(int predicate, CUDA_ON_CPU_PLACE)
{
    return cuda_on_cpu::barrier({"__syncthreads_or", file, line}, predicate) != 0;
}

inline int __syncthreads_and(int predicate, CUDA_ON_CPU_PLACE)
{
    return cuda_on_cpu::barrier({"__syncthreads_and", file, line}, predicate == 0) == 0;
}

namespace cuda_on_cpu
{

void finish_nothing(Thread* lanes, unsigned mask);
void finish_shuffle(Thread* lanes, unsigned mask);
void finish_ballot(Thread* lanes, unsigned mask);
void finish_match(Thread* lanes, unsigned mask);
void finish_add(Thread* lanes, unsigned mask);
void finish_min(Thread* lanes, unsigned mask);
void finish_max(Thread* lanes, unsigned mask);
void finish_signed_min(Thread* lanes, unsigned mask);
void finish_signed_max(Thread* lanes, unsigned mask);

template <typename T>
uint64_t as_bits(T value)
{
    static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8, "CUDA shuffles 2, 4 or 8 bytes");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    return bits;
}

template <typename T>
T from_bits(uint64_t bits)
{
    T value;
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

template <typename T>
T shuffle(Place const& place, unsigned mask, T value, unsigned source)
{
    return from_bits<T>(warp_operation(place, mask, as_bits(value), source, finish_shuffle));
}

/* The first lane of the caller's group of `width` lanes. */
inline unsigned first_of_group(int width)
{
    if (width < 1 || width > warpSize || (width & (width - 1)) != 0)
    {
        refuse("a shuffle of width %d, which is no power of 2 up to %d", width, warpSize);
    }
    return lane_of_this_thread() & ~(static_cast<unsigned>(width) - 1);
}

} // namespace cuda_on_cpu

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, CUDA_ON_CPU_PLACE)
{
    unsigned const source = cuda_on_cpu::first_of_group(width) + (static_cast<unsigned>(lane) & (width - 1u));
    return cuda_on_cpu::shuffle({"__shfl_sync", file, line}, mask, value, source);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, CUDA_ON_CPU_PLACE)
{
    unsigned const self = cuda_on_cpu::lane_of_this_thread();
    unsigned const source = self ^ static_cast<unsigned>(lanes);
    // Earlier groups may be read, later ones not.
    bool const inside = source < cuda_on_cpu::first_of_group(width) + static_cast<unsigned>(width);
    return cuda_on_cpu::shuffle({"__shfl_xor_sync", file, line}, mask, value, inside ? source : self);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_ON_CPU_PLACE)
{
    unsigned const self = cuda_on_cpu::lane_of_this_thread();
    bool const inside = self + delta < cuda_on_cpu::first_of_group(width) + static_cast<unsigned>(width);
    return cuda_on_cpu::shuffle({"__shfl_down_sync", file, line}, mask, value, inside ? self + delta : self);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_ON_CPU_PLACE)
{
    unsigned const self = cuda_on_cpu::lane_of_this_thread();
    bool const inside = self >= cuda_on_cpu::first_of_group(width) + delta;
    return cuda_on_cpu::shuffle({"__shfl_up_sync", file, line}, mask, value, inside ? self - delta : self);
}

inline void __syncwarp(unsigned mask = 0xffffffffu, CUDA_ON_CPU_PLACE)
{
    cuda_on_cpu::warp_operation({"__syncwarp", file, line}, mask, 0, 0, cuda_on_cpu::finish_nothing);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, CUDA_ON_CPU_PLACE)
{
    return static_cast<unsigned>(cuda_on_cpu::warp_operation(
        {"__ballot_sync", file, line}, mask, predicate != 0, 0, cuda_on_cpu::finish_ballot));
}

inline int __any_sync(unsigned mask, int predicate, CUDA_ON_CPU_PLACE)
{
    return cuda_on_cpu::warp_operation({"__any_sync", file, line}, mask, predicate != 0, 0, cuda_on_cpu::finish_ballot)
        != 0;
}

inline int __all_sync(unsigned mask, int predicate, CUDA_ON_CPU_PLACE)
{
    return cuda_on_cpu::warp_operation({"__all_sync", file, line}, mask, predicate != 0, 0, cuda_on_cpu::finish_ballot)
        == mask;
}

template <typename T>
unsigned __match_any_sync(unsigned mask, T value, CUDA_ON_CPU_PLACE)
{
    return static_cast<unsigned>(cuda_on_cpu::warp_operation(
        {"__match_any_sync", file, line}, mask, cuda_on_cpu::as_bits(value), 0, cuda_on_cpu::finish_match));
}

// Integers of 32 bits only, as in CUDA.
#define CUDA_ON_CPU_REDUCE(NAME, TYPE, FINISH)                                                                         \
    inline TYPE NAME(unsigned mask, TYPE value, CUDA_ON_CPU_PLACE)                                                     \
    {                                                                                                                  \
        return static_cast<TYPE>(cuda_on_cpu::warp_operation(                                                          \
            {#NAME, file, line}, mask, cuda_on_cpu::as_bits(value), 0, cuda_on_cpu::FINISH));                          \
    }

CUDA_ON_CPU_REDUCE(__reduce_add_sync, unsigned, finish_add)
CUDA_ON_CPU_REDUCE(__reduce_add_sync, int, finish_add)
CUDA_ON_CPU_REDUCE(__reduce_min_sync, unsigned, finish_min)
CUDA_ON_CPU_REDUCE(__reduce_min_sync, int, finish_signed_min)
CUDA_ON_CPU_REDUCE(__reduce_max_sync, unsigned, finish_max)
CUDA_ON_CPU_REDUCE(__reduce_max_sync, int, finish_signed_max)
#undef CUDA_ON_CPU_REDUCE

#endif
