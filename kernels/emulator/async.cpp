// Copies into shared memory that are under way until the thread waits for their group. In early mode the bytes arrive at
// once, in late mode when they are waited for; in both nobody may touch them before.
#include "machine.h"

namespace emulator {
namespace {

constexpr uint32_t COPY_BYTES = 16;

void set_pending(Block& block, uint32_t start, uint8_t pending) {
    for (uint32_t cell = start / 2; cell < (start + COPY_BYTES) / 2; cell++) {
        block.cells[cell].pending = pending;
    }
}

void arrive(Block& block, const Copy& copy) {
    std::memset(block.shared + copy.offset, 0, COPY_BYTES);
    if (copy.valid_bytes > 0) {
        std::memcpy(block.shared + copy.offset, copy.src, copy.valid_bytes);
    }
}

}  // namespace

void copy_async(Range range, int64_t offset, const void* src, uint32_t valid_bytes, Site site) {
    Thread& me = self();
    Block& block = *me.block;
    check_shared(range, offset, COPY_BYTES, site);
    const Copy copy{range.start + uint32_t(offset), src, valid_bytes, site};
    note_shared_write(copy.offset, COPY_BYTES, me, site);
    count_access(Space::Shared, copy.offset, COPY_BYTES, site);
    std::memset(block.shared + copy.offset, 0xFF, COPY_BYTES);
    if (!block.launch->settings.late) {
        arrive(block, copy);
    }
    set_pending(block, copy.offset, 1);
    me.open.push_back(copy);
}

void copy_async_commit() {
    Thread& me = self();
    me.groups.push_back(std::move(me.open));
    me.open.clear();
}

void copy_async_wait(uint32_t newest, Site site) {
    Thread& me = self();
    Block& block = *me.block;
    while (me.groups.size() > newest) {
        for (const Copy& copy : me.groups.front()) {
            if (block.launch->settings.late) {
                arrive(block, copy);
            }
            set_pending(block, copy.offset, 0);
            // Written at this time, not when the copy began: a barrier between the two orders nothing.
            note_shared_write(copy.offset, COPY_BYTES, me, site);
        }
        me.groups.erase(me.groups.begin());
    }
}

}  // namespace emulator
