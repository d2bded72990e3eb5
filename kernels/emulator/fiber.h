// A thread of control with its own stack, resumed and suspended by hand.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulator {

struct Fiber {
    void* stack_pointer = nullptr;  // while suspended
    char* stack = nullptr;          // lowest address
    void* fake_stack = nullptr;     // AddressSanitizer's, while suspended
};

#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t STACK_BYTES = 512 << 10;  // gaps between variables, and none of them shares a place
#else
constexpr std::size_t STACK_BYTES = 128 << 10;
#endif

// A stack of STACK_BYTES, below it a page that nobody may touch; null if there is no memory. Stacks given back are kept for
// this thread of the host.
char* take_stack();
void give_stack(char* stack);

// Forgets what frames that will never return have told AddressSanitizer about their stack.
void forget_frames(Fiber& fiber);

// Makes the fiber, which has a stack, ready to begin at `entry(argument)`. `entry` must not return.
void prepare(Fiber& fiber, void (*entry)(void*), void* argument);

// Runs `fiber` on this thread until it suspends itself.
void resume(Fiber& fiber);

// Returns to the one that resumed `fiber`, which is the caller. With `last` it will not be resumed.
void suspend(Fiber& fiber, bool last);

}  // namespace emulator
