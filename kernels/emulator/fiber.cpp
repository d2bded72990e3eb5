// Switching stacks: the registers that a callee must keep go onto the old stack, and come from the new one.
#include "fiber.h"

#include <cstring>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define WITH_ASAN 1
#else
#define WITH_ASAN 0
#endif

// emulator_switch(void** save, void* load): keeps the stack pointer in *save and continues at `load`.
extern "C" void emulator_switch(void** save, void* load);
// The first frame of a fiber: calls the entry with its argument.
extern "C" void emulator_begin();

#if defined(__x86_64__)
// System V ABI: rbx, rbp, r12 to r15 are the callee's to keep, as are the control words of SSE and x87, which no code
// here changes. A new fiber finds its entry in r12 and its argument in r13.
asm(R"(
.text
.globl emulator_switch
.type emulator_switch, @function
emulator_switch:
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
.globl emulator_begin
.type emulator_begin, @function
emulator_begin:
    movq %r13, %rdi
    callq *%r12
    ud2
)");
static constexpr std::size_t SAVED_WORDS = 6, ENTRY_WORD = 3, ARGUMENT_WORD = 2;
#elif defined(__aarch64__)
// AAPCS64: x19 to x30 and the lower halves of v8 to v15. A new fiber finds its entry in x19 and its argument in x20.
asm(R"(
.text
.globl emulator_switch
.type emulator_switch, %function
emulator_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.globl emulator_begin
.type emulator_begin, %function
emulator_begin:
    mov x0, x20
    blr x19
    brk #0
)");
#else
#error "the emulator switches stacks on x86-64 and AArch64 only"
#endif

namespace emulator {
namespace {

// Where the thread that runs fibers goes on.
thread_local void* returns_to = nullptr;

#if WITH_ASAN
// Its stack.
thread_local void* fake_stack_of_thread = nullptr;
thread_local const void* stack_of_thread = nullptr;
thread_local std::size_t stack_of_thread_bytes = 0;
#endif

// Where a fiber begins.
struct Start {
    void (*entry)(void*);
    void* argument;
};

void begin(void* argument) {
#if WITH_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &stack_of_thread, &stack_of_thread_bytes);
#endif
    const Start start = *static_cast<Start*>(argument);
    start.entry(start.argument);
}

}  // namespace

void forget_frames(Fiber& fiber) {
#if WITH_ASAN
    if (fiber.stack_pointer != nullptr) {
        const auto* frames = static_cast<const char*>(fiber.stack_pointer);
        __asan_unpoison_memory_region(frames, std::size_t(fiber.stack + STACK_BYTES - frames));
    }
#endif
    fiber.stack_pointer = nullptr;
}

void prepare(Fiber& fiber, void (*entry)(void*), void* argument) {
    forget_frames(fiber);
    fiber.fake_stack = nullptr;
    // The start lies at the top of the stack, the first frame below it.
    char* top = fiber.stack + STACK_BYTES - 64;
    const Start start{entry, argument};
    std::memcpy(top, &start, sizeof(start));
    void** frame = reinterpret_cast<void**>(top);
#if defined(__x86_64__)
    // `ret` takes the address of emulator_begin off; the stack is then a multiple of 16, as a call wants it.
    *--frame = nullptr;
    *--frame = nullptr;
    *--frame = reinterpret_cast<void*>(&emulator_begin);
    frame -= SAVED_WORDS;
    std::memset(frame, 0, SAVED_WORDS * sizeof(void*));
    frame[ENTRY_WORD] = reinterpret_cast<void*>(&begin);
    frame[ARGUMENT_WORD] = top;
#else
    frame -= 20;
    std::memset(frame, 0, 20 * sizeof(void*));
    frame[0] = reinterpret_cast<void*>(&begin);
    frame[1] = top;
    frame[11] = reinterpret_cast<void*>(&emulator_begin);
#endif
    fiber.stack_pointer = frame;
}

void resume(Fiber& fiber) {
#if WITH_ASAN
    __sanitizer_start_switch_fiber(&fake_stack_of_thread, fiber.stack, STACK_BYTES);
#endif
    emulator_switch(&returns_to, fiber.stack_pointer);
#if WITH_ASAN
    __sanitizer_finish_switch_fiber(fake_stack_of_thread, nullptr, nullptr);
#endif
}

void suspend(Fiber& fiber, bool last) {
#if WITH_ASAN
    __sanitizer_start_switch_fiber(last ? nullptr : &fiber.fake_stack, stack_of_thread, stack_of_thread_bytes);
#else
    (void)last;
#endif
    emulator_switch(&fiber.stack_pointer, returns_to);
#if WITH_ASAN
    __sanitizer_finish_switch_fiber(fiber.fake_stack, &stack_of_thread, &stack_of_thread_bytes);
#endif
}

}  // namespace emulator
