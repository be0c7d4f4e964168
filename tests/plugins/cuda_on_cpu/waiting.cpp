/* How threads wait for each other, and the words for it when they wait in vain. */
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <string>

#include "running_block.h"

namespace cuda_on_cpu
{
namespace
{

bool same(Place const& one, Place const& other)
{
    auto const equal = [](char const* a, char const* b) { return a == b || std::strcmp(a, b) == 0; };
    return one.line == other.line && equal(one.file, other.file) && equal(one.operation, other.operation);
}

char const* file_name(char const* path)
{
    char const* slash = std::strrchr(path, '/');
    return slash == nullptr ? path : slash + 1;
}

std::string told(Place const& place)
{
    return std::string(place.operation) + " (" + file_name(place.file) + ":" + std::to_string(place.line) + ")";
}

std::string hexadecimal(unsigned mask)
{
    char text[16];
    std::snprintf(text, sizeof(text), "%#x", mask);
    return text;
}

std::string told(Thread const& thread)
{
    std::string text = "thread " + std::to_string(block.number_of(thread));
    if (thread.state == State::returned)
    {
        return text + " has returned";
    }
    text += " waits at " + told(thread.place);
    return thread.state == State::at_warp_operation ? text + " with mask " + hexadecimal(thread.mask) : text;
}

[[noreturn]] void stop_thread()
{
    while (true)
    {
        block.fibers.yield();
    }
}

void wait_in(State state, Place const& place)
{
    block.running->state = state;
    block.running->place = place;
}

void release(Thread& thread, uint64_t result)
{
    thread.state = State::can_run;
    thread.result = result;
}

uint64_t result_when_released(Thread& self)
{
    while (self.state != State::can_run)
    {
        block.fibers.yield();
    }
    return self.result;
}

bool is_at_same_warp_operation(Thread const& one, Thread const& other)
{
    return one.state == State::at_warp_operation && one.mask == other.mask && same(one.place, other.place);
}

} // namespace

// No thread can run: says who waits where, and one that does not come.
void refuse_divergence()
{
    auto const waiting = std::find_if(block.threads.begin(), block.threads.end(),
        [](Thread const& thread) { return thread.state != State::returned; });
    bool const at_barrier = waiting->state == State::at_barrier;
    size_t const first = at_barrier ? 0 : block.first_of_warp(*waiting);
    size_t const last = at_barrier ? block.threads.size() : first + block.size_of_warp(block.first_of_warp(*waiting));
    for (size_t i = first; i < last; ++i)
    {
        bool const wanted = at_barrier || (waiting->mask >> (i - first) & 1) != 0;
        Thread const& other = block.threads[i];
        bool const there = at_barrier ? other.state == State::at_barrier : is_at_same_warp_operation(other, *waiting);
        if (wanted && !there)
        {
            return refuse("%s, but %s", told(*waiting).c_str(), told(other).c_str());
        }
    }
    refuse("%s for a lane that the block does not have", told(*waiting).c_str());
}

void refuse(char const* format, ...)
{
    if (block.refusal[0] == '\0')
    {
        va_list values;
        va_start(values, format);
        int const length = std::snprintf(block.refusal, sizeof(block.refusal), "block (%u, %u, %u): ", blockIdx.x,
            blockIdx.y, blockIdx.z);
        std::vsnprintf(block.refusal + length, sizeof(block.refusal) - static_cast<size_t>(length), format, values);
        va_end(values);
    }
    if (block.running != nullptr)
    {
        stop_thread();
    }
}

int barrier(Place const& place, int predicate)
{
    Thread& self = *block.running;
    wait_in(State::at_barrier, place);
    self.value = predicate != 0 ? 1 : 0;
    if (++block.num_at_barrier < block.threads.size())
    {
        return static_cast<int>(result_when_released(self));
    }
    uint64_t num_true = 0;
    for (Thread const& thread : block.threads)
    {
        num_true += thread.value;
        if (!same(thread.place, place))
        {
            refuse("%s, but %s", told(thread).c_str(), told(self).c_str());
        }
    }
    block.num_at_barrier = 0;
    for (Thread& thread : block.threads)
    {
        release(thread, num_true);
    }
    return static_cast<int>(num_true);
}

uint64_t warp_operation(Place const& place, unsigned mask, uint64_t value, unsigned argument, Finish finish)
{
    Thread& self = *block.running;
    unsigned const first = block.first_of_warp(self);
    unsigned const num_lanes = block.size_of_warp(first);
    Thread* const lanes = &block.threads[first];
    wait_in(State::at_warp_operation, place);
    self.mask = mask;
    self.value = value;
    self.argument = argument;
    if ((mask >> lane_of_this_thread() & 1) == 0)
    {
        refuse("%s, which leaves its own lane out", told(self).c_str());
    }
    // Lanes that the block does not have are left to refuse_divergence(). The next lane first: it is the likely one to
    // be missing.
    bool complete = num_lanes == warpSize || mask >> num_lanes == 0;
    for (unsigned i = 1; i < num_lanes && complete; ++i)
    {
        unsigned const lane = (lane_of_this_thread() + i) % num_lanes;
        complete = (mask >> lane & 1) == 0 || is_at_same_warp_operation(lanes[lane], self);
    }
    if (!complete)
    {
        return result_when_released(self);
    }
    finish(lanes, mask);
    for (unsigned lane = 0; lane < num_lanes; ++lane)
    {
        if ((mask >> lane & 1) != 0)
        {
            lanes[lane].state = State::can_run;
        }
    }
    return self.result;
}

unsigned lane_of_this_thread()
{
    return block.number_of(*block.running) % warpSize;
}

} // namespace cuda_on_cpu
