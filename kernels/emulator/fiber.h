// A thread of control with its own stack, resumed and suspended by hand.
#pragma once

#include <cstddef>

namespace emulator {

struct Fiber {
    void* stack_pointer = nullptr;  // while suspended
    char* stack = nullptr;          // lowest address
    void* fake_stack = nullptr;     // AddressSanitizer's, while suspended
};

constexpr std::size_t STACK_BYTES = 128 << 10;

// Makes the fiber ready to begin at `entry(argument)`, on `stack`. `entry` must not return.
void prepare(Fiber& fiber, char* stack, void (*entry)(void*), void* argument);

// Runs `fiber` on this thread until it suspends itself.
void resume(Fiber& fiber);

// Returns to the one that resumed `fiber`, which is the caller. With `last` it will not be resumed.
void suspend(Fiber& fiber, bool last);

}  // namespace emulator
