#include "fibers.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
// The registers that a called function keeps, by the System V ABI, lie on the stack of whoever does not run.
extern "C" void cuda_on_cpu_switch(void** from, void* to) __attribute__((visibility("hidden")));
asm(R"(
    .text
    .hidden cuda_on_cpu_switch
    .globl cuda_on_cpu_switch
    .type cuda_on_cpu_switch, @function
cuda_on_cpu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size cuda_on_cpu_switch, . - cuda_on_cpu_switch
)");
#endif

namespace cuda_on_cpu
{
namespace
{

// Frames are larger with AddressSanitizer's fences around every variable.
constexpr size_t stack_bytes = 256 * 1024;

// The fibers whose body begins: enter() has no arguments.
Fibers* entered = nullptr;

} // namespace

Fibers::~Fibers()
{
    for (void* stack : stacks_)
    {
        munmap(stack, stack_bytes);
    }
}

void Fibers::add_stack()
{
    void* stack = mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED || mprotect(stack, static_cast<size_t>(sysconf(_SC_PAGESIZE)), PROT_NONE) != 0)
    {
        std::perror("cuda_on_cpu: no memory for a fiber's stack");
        std::abort();
    }
    stacks_.push_back(stack);
    fibers_.push_back(std::make_unique<Context>());
}

void Fibers::enter()
{
    Fibers& fibers = *entered;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &fibers.resumer_.stack_bottom, &fibers.resumer_.stack_size);
#endif
    fibers.body_(fibers.argument_);
    fibers.yield();
    std::abort(); // nobody resumes a fiber whose body has returned
}

void Fibers::prepare(unsigned count, Body body, void* argument)
{
    body_ = body;
    argument_ = argument;
    while (stacks_.size() < count)
    {
        add_stack();
    }
    for (unsigned i = 0; i < count; ++i)
    {
        // Stacks that begin at the same offset in a page would share a few lines of the processor's cache.
        size_t const offset = i % 32 * 576;
        Context& fiber = *fibers_[i];
        fiber.fake_stack = nullptr;
        fiber.stack_bottom = stacks_[i];
        fiber.stack_size = stack_bytes - offset;
#if defined(__x86_64__)
        // Six registers, the address to return to, and a word that puts the stack where a call would have.
        auto** top = reinterpret_cast<void**>(static_cast<char*>(stacks_[i]) + stack_bytes - offset) - 2;
        *top = reinterpret_cast<void*>(&Fibers::enter);
        fiber.stack_pointer = top - 6;
#else
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = stacks_[i];
        fiber.context.uc_stack.ss_size = stack_bytes - offset;
        makecontext(&fiber.context, &Fibers::enter, 0);
#endif
    }
}

void Fibers::switch_to(Context& from, Context& to)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&from.fake_stack, to.stack_bottom, to.stack_size);
#endif
#if defined(__x86_64__)
    cuda_on_cpu_switch(&from.stack_pointer, to.stack_pointer);
#else
    swapcontext(&from.context, &to.context);
#endif
#if defined(__SANITIZE_ADDRESS__)
    // Back on the stack of `from`, having come from the resumer's if this is a fiber, and from a fiber's if not.
    bool const in_fiber = &from != &resumer_;
    __sanitizer_finish_switch_fiber(from.fake_stack, in_fiber ? &resumer_.stack_bottom : nullptr,
        in_fiber ? &resumer_.stack_size : nullptr);
#endif
}

void Fibers::resume(unsigned fiber)
{
    entered = this;
    running_ = fibers_[fiber].get();
    switch_to(resumer_, *running_);
}

void Fibers::yield()
{
    switch_to(*running_, resumer_);
}

} // namespace cuda_on_cpu
