// Device memory: allocations of the host, and a mark for each byte that nothing has written.
#include <sys/mman.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <shared_mutex>

#include "machine.h"

namespace emulator {
namespace {

struct Allocation {
    uint64_t bytes;
    uint8_t* unwritten;
    bool is_sparse;
};

std::shared_mutex lock;
std::map<uintptr_t, Allocation>& allocations() {
    static std::map<uintptr_t, Allocation> all;
    return all;
}

}  // namespace

uint8_t* marks_of(const void* address, uint64_t bytes) {
    const std::shared_lock<std::shared_mutex> guard(lock);
    const auto start = reinterpret_cast<uintptr_t>(address);
    auto next = allocations().upper_bound(start);
    if (next == allocations().begin()) {
        return nullptr;
    }
    const auto& [base, allocation] = *--next;
    const bool inside = start - base <= allocation.bytes && bytes <= allocation.bytes - (start - base);
    return inside ? allocation.unwritten + (start - base) : nullptr;
}

namespace {

void check(const Buffer& buffer, const char* does, const char* address, int64_t offset, uint32_t size, uint32_t alignment,
           Site site) {
    if (quick_accesses == 0 && !running_launch->settings.count_accesses) {
        fault(site, "deadlock: the thread goes on and on without waiting for another one");
    }
    if (!is_inside(buffer, offset, size)) {
        fault(site, "out of bounds: %s the %u bytes from %lld on of a tensor of %llu", does, size, (long long)offset,
              (unsigned long long)buffer.bytes);
    }
    if (reinterpret_cast<uintptr_t>(address) % alignment != 0) {
        fault(site, "misaligned: %s %u bytes at an address that is not a multiple of %u", does, size, alignment);
    }
    count_access(Space::Global, reinterpret_cast<uint64_t>(address), size, site);
}

}  // namespace

const void* read_bytes(const Buffer& buffer, const void* data, int64_t offset, uint32_t size, uint32_t alignment,
                       Site site) {
    const char* address = static_cast<const char*>(data) + offset;
    check(buffer, "reads", address, offset, size, alignment, site);
    if (!are_written(buffer.unwritten + offset, size)) {
        int64_t first = offset;
        while (!buffer.unwritten[first]) {
            first++;
        }
        fault(site, "uninitialised: reads byte %lld of a tensor of %llu, not written since its memory was allocated or freed",
              (long long)first, (unsigned long long)buffer.bytes);
    }
    return address;
}

void* write_bytes(const Buffer& buffer, void* data, int64_t offset, uint32_t size, Site site) {
    char* address = static_cast<char*>(data) + offset;
    check(buffer, "writes", address, offset, size, size, site);
    std::memset(buffer.unwritten + offset, 0, size);
    return address;
}

}  // namespace emulator

namespace emulator {
namespace {

// Zeros, by the page, when they are touched: nothing is taken, nor set aside, before.
void* map_sparse(uint64_t bytes) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    return memory == MAP_FAILED ? nullptr : memory;
}

// As long as it says and no longer, so that AddressSanitizer sees what leaves it.
void* take_zeros(uint64_t bytes, uint64_t alignment) {
    void* memory = nullptr;
    if (posix_memalign(&memory, alignment, bytes) != 0) {
        return nullptr;
    }
    return std::memset(memory, 0, bytes);
}

void give_back(void* memory, uint64_t bytes, bool is_sparse) {
    if (!is_sparse) {
        std::free(memory);
    } else if (memory != nullptr) {
        munmap(memory, bytes);
    }
}

}  // namespace
}  // namespace emulator

using namespace emulator;

extern "C" void* emulator_allocate(uint64_t bytes, uint64_t alignment, uint32_t sparse) {
    const bool is_sparse = sparse != 0;
    const uint64_t taken = bytes == 0 ? 1 : bytes;
    void* memory = is_sparse ? map_sparse(taken) : take_zeros(taken, alignment);
    void* unwritten = is_sparse ? map_sparse(taken) : std::calloc(taken, 1);
    if (memory == nullptr || unwritten == nullptr) {
        give_back(memory, taken, is_sparse);
        give_back(unwritten, taken, is_sparse);
        return nullptr;
    }
    const std::unique_lock<std::shared_mutex> guard(lock);
    allocations()[reinterpret_cast<uintptr_t>(memory)] = Allocation{taken, static_cast<uint8_t*>(unwritten), is_sparse};
    return memory;
}

extern "C" void emulator_free(void* memory) {
    const std::unique_lock<std::shared_mutex> guard(lock);
    const auto found = allocations().find(reinterpret_cast<uintptr_t>(memory));
    if (found != allocations().end()) {
        const auto [bytes, unwritten, is_sparse] = found->second;
        give_back(unwritten, bytes, is_sparse);
        give_back(memory, bytes, is_sparse);
        allocations().erase(found);
    }
}

extern "C" void emulator_poison(void* memory, uint64_t bytes) {
    if (uint8_t* unwritten = marks_of(memory, bytes)) {
        std::memset(memory, 0xFF, bytes);
        std::memset(unwritten, 1, bytes);
    }
}

extern "C" void emulator_written(void* memory, uint64_t bytes) {
    if (uint8_t* unwritten = marks_of(memory, bytes)) {
        std::memset(unwritten, 0, bytes);
    }
}

extern "C" void emulator_copy(void* dst, const void* src, uint64_t bytes) {
    std::memmove(dst, src, bytes);
    uint8_t* to = marks_of(dst, bytes);
    const uint8_t* from = marks_of(src, bytes);
    if (to != nullptr && from != nullptr) {
        std::memmove(to, from, bytes);
    }
}

extern "C" int64_t emulator_first_poisoned(const void* memory, uint64_t bytes) {
    const uint8_t* unwritten = marks_of(memory, bytes);
    if (unwritten == nullptr || bytes == 0) {
        return -1;
    }
    const void* found = std::memchr(unwritten, 1, bytes);
    return found == nullptr ? -1 : static_cast<const uint8_t*>(found) - unwritten;
}
