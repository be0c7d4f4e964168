#include "warp_operations.h"

#include <algorithm>

namespace cuda_on_cpu
{
namespace
{

template <typename Each>
void for_each_lane(unsigned mask, Each each)
{
    for (unsigned lane = 0; lane < warpSize; ++lane)
    {
        if ((mask >> lane & 1) != 0)
        {
            each(lane);
        }
    }
}

// The same result for all lanes: the lanes' values, as numbers of type T, put together.
template <typename T, typename Join>
void finish_joined(Thread* lanes, unsigned mask, Join join)
{
    T joined{};
    bool first = true;
    for_each_lane(mask, [&](unsigned lane) {
        T const value = static_cast<T>(lanes[lane].value);
        joined = first ? value : join(joined, value);
        first = false;
    });
    for_each_lane(mask, [&](unsigned lane) { lanes[lane].result = static_cast<uint32_t>(joined); });
}

} // namespace

void finish_nothing(Thread*, unsigned)
{
}

void finish_shuffle(Thread* lanes, unsigned mask)
{
    for_each_lane(mask, [&](unsigned lane) {
        unsigned const source = lanes[lane].argument;
        if ((mask >> source & 1) == 0)
        {
            refuse("lane %u reads from lane %u, which is not among those of %s (%s:%d, mask %#x)", lane, source,
                lanes[lane].place.operation, lanes[lane].place.file, lanes[lane].place.line, mask);
        }
        lanes[lane].result = lanes[source].value;
    });
}

void finish_ballot(Thread* lanes, unsigned mask)
{
    unsigned ballot = 0;
    for_each_lane(mask, [&](unsigned lane) { ballot |= static_cast<unsigned>(lanes[lane].value) << lane; });
    for_each_lane(mask, [&](unsigned lane) { lanes[lane].result = ballot; });
}

void finish_match(Thread* lanes, unsigned mask)
{
    for_each_lane(mask, [&](unsigned lane) {
        unsigned same = 0;
        for_each_lane(mask, [&](unsigned other) {
            same |= lanes[other].value == lanes[lane].value ? 1u << other : 0u;
        });
        lanes[lane].result = same;
    });
}

void finish_add(Thread* lanes, unsigned mask)
{
    finish_joined<uint32_t>(lanes, mask, [](uint32_t a, uint32_t b) { return a + b; });
}

void finish_min(Thread* lanes, unsigned mask)
{
    finish_joined<uint32_t>(lanes, mask, [](uint32_t a, uint32_t b) { return std::min(a, b); });
}

void finish_max(Thread* lanes, unsigned mask)
{
    finish_joined<uint32_t>(lanes, mask, [](uint32_t a, uint32_t b) { return std::max(a, b); });
}

void finish_signed_min(Thread* lanes, unsigned mask)
{
    finish_joined<int32_t>(lanes, mask, [](int32_t a, int32_t b) { return std::min(a, b); });
}

void finish_signed_max(Thread* lanes, unsigned mask)
{
    finish_joined<int32_t>(lanes, mask, [](int32_t a, int32_t b) { return std::max(a, b); });
}

} // namespace cuda_on_cpu
