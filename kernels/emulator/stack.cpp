// Stacks of fibers. Mapping one is slow beside running a small kernel on it, so they are kept.
#include <vector>

#include <sys/mman.h>

#include "fiber.h"

namespace emulator {
namespace {

constexpr std::size_t GUARD_BYTES = 64 << 10;  // a multiple of every page size

struct Stacks {
    std::vector<char*> free;

    ~Stacks() {
        for (char* stack : free) {
            munmap(stack - GUARD_BYTES, GUARD_BYTES + STACK_BYTES);
        }
    }
};
thread_local Stacks stacks;

}  // namespace

char* take_stack() {
    if (!stacks.free.empty()) {
        char* stack = stacks.free.back();
        stacks.free.pop_back();
        return stack;
    }
    void* memory = mmap(nullptr, GUARD_BYTES + STACK_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        return nullptr;
    }
    // Whoever overflows the stack stops here. Without the guard, which a system may have too few of, he would go on.
    mprotect(memory, GUARD_BYTES, PROT_NONE);
    return static_cast<char*>(memory) + GUARD_BYTES;
}

void give_stack(char* stack) {
    if (stack != nullptr) {
        stacks.free.push_back(stack);
    }
}

}  // namespace emulator
