// Device memory: allocations of the host, and a mark for each byte that something has written.
#include <cstdlib>
#include <map>
#include <mutex>
#include <shared_mutex>

#include "machine.h"

namespace emulator {
namespace {

struct Allocation {
    uint64_t bytes;
    uint8_t* written;
};

std::shared_mutex lock;
std::map<uintptr_t, Allocation>& allocations() {
    static std::map<uintptr_t, Allocation> all;
    return all;
}

}  // namespace

// The marks of the bytes from `address`, null if they are not inside of one allocation.
uint8_t* marks_of(const void* address, uint64_t bytes) {
    const std::shared_lock<std::shared_mutex> guard(lock);
    const auto start = reinterpret_cast<uintptr_t>(address);
    auto next = allocations().upper_bound(start);
    if (next == allocations().begin()) {
        return nullptr;
    }
    const auto& [base, allocation] = *--next;
    const bool inside = start - base <= allocation.bytes && bytes <= allocation.bytes - (start - base);
    return inside ? allocation.written + (start - base) : nullptr;
}

const void* read_bytes(const Buffer& buffer, const void* data, int64_t offset, uint32_t size, uint32_t alignment,
                       Site site) {
    if (offset < 0 || uint64_t(offset) + size > buffer.bytes) {
        fault(site, "reads bytes %lld to %lld of a tensor of %llu bytes", (long long)offset,
              (long long)offset + size, (unsigned long long)buffer.bytes);
    }
    const char* address = static_cast<const char*>(data) + offset;
    if (reinterpret_cast<uintptr_t>(address) % alignment != 0) {
        fault(site, "reads %u bytes at an address that is not a multiple of %u", size, alignment);
    }
    for (uint32_t i = 0; i < size; i++) {
        if (!buffer.written[offset + i]) {
            fault(site, "reads byte %lld of a tensor of %llu bytes, which nothing has written", (long long)offset + i,
                  (unsigned long long)buffer.bytes);
        }
    }
    count_access(Space::Global, reinterpret_cast<uint64_t>(address), size, site);
    return address;
}

void* write_bytes(const Buffer& buffer, void* data, int64_t offset, uint32_t size, Site site) {
    if (offset < 0 || uint64_t(offset) + size > buffer.bytes) {
        fault(site, "writes bytes %lld to %lld of a tensor of %llu bytes", (long long)offset,
              (long long)offset + size, (unsigned long long)buffer.bytes);
    }
    char* address = static_cast<char*>(data) + offset;
    if (reinterpret_cast<uintptr_t>(address) % size != 0) {
        fault(site, "writes %u bytes at an address that is not a multiple of them", size);
    }
    std::memset(buffer.written + offset, 1, size);
    count_access(Space::Global, reinterpret_cast<uint64_t>(address), size, site);
    return address;
}

uint32_t atomic_add(uint32_t* address, uint32_t value) {
    return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);
}

}  // namespace emulator

using namespace emulator;

extern "C" void* emulator_allocate(uint64_t bytes, uint64_t alignment) {
    const uint64_t padded = (bytes + alignment - 1) / alignment * alignment;
    void* memory = std::aligned_alloc(alignment, padded == 0 ? alignment : padded);
    auto* written = static_cast<uint8_t*>(std::malloc(bytes == 0 ? 1 : bytes));
    if (memory == nullptr || written == nullptr) {
        std::free(memory);
        std::free(written);
        return nullptr;
    }
    std::memset(memory, 0, bytes);
    std::memset(written, 1, bytes);
    const std::unique_lock<std::shared_mutex> guard(lock);
    allocations()[reinterpret_cast<uintptr_t>(memory)] = Allocation{bytes, written};
    return memory;
}

extern "C" void emulator_free(void* memory) {
    const std::unique_lock<std::shared_mutex> guard(lock);
    const auto found = allocations().find(reinterpret_cast<uintptr_t>(memory));
    if (found != allocations().end()) {
        std::free(found->second.written);
        std::free(memory);
        allocations().erase(found);
    }
}

extern "C" void emulator_poison(void* memory, uint64_t bytes) {
    if (uint8_t* written = marks_of(memory, bytes)) {
        std::memset(memory, 0xFF, bytes);
        std::memset(written, 0, bytes);
    }
}

extern "C" void emulator_written(void* memory, uint64_t bytes) {
    if (uint8_t* written = marks_of(memory, bytes)) {
        std::memset(written, 1, bytes);
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
    const uint8_t* written = marks_of(memory, bytes);
    if (written == nullptr || bytes == 0) {
        return -1;
    }
    const void* found = std::memchr(written, 0, bytes);
    return found == nullptr ? -1 : static_cast<const uint8_t*>(found) - written;
}
