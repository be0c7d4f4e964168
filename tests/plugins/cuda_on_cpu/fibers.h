/* Threads of execution that one processor runs in turns, each until it yields: stacks, and the switch between them. */
#ifndef CUDA_ON_CPU_FIBERS_H
#define CUDA_ON_CPU_FIBERS_H

#include <cstddef>
#include <memory>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace cuda_on_cpu
{

/* Where a fiber, or what resumed it, goes on. */
struct Context
{
#if defined(__x86_64__)
    void* stack_pointer = nullptr;
#else
    ucontext_t context{};
#endif
    // What AddressSanitizer wants to know of a stack.
    void* fake_stack = nullptr;
    void const* stack_bottom = nullptr;
    size_t stack_size = 0;
};

/* Fibers by number. Their stacks are kept from one use to the next; below each is a page that nothing may touch. */
class Fibers
{
public:
    using Body = void (*)(void*);

    ~Fibers();

    /* Makes fibers 0..count-1 begin with body(argument) when they are first resumed; what they did before is dropped. */
    void prepare(unsigned count, Body body, void* argument);

    /* Runs a fiber until it yields or its body returns. */
    void resume(unsigned fiber);

    /* Inside a fiber: back to what resumed it. */
    void yield();

private:
    static void enter();
    void add_stack();
    void switch_to(Context& from, Context& to);

    std::vector<std::unique_ptr<Context>> fibers_;
    std::vector<void*> stacks_;
    Context resumer_;
    Context* running_ = nullptr;
    Body body_ = nullptr;
    void* argument_ = nullptr;
};

} // namespace cuda_on_cpu

#endif
