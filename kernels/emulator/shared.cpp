// Shared memory: bounds of what a kernel has taken, reads of what nothing has written, and races: two accesses to the
// same bytes, one of them a write, by different threads, with nothing between them that orders them.
#include "machine.h"

namespace emulator {
namespace {

constexpr uint32_t CELL_BYTES = 2;
constexpr uint32_t SEVERAL = 0xff;

// Whether an access of thread `other` at its warp's clock `clock` comes before what `me` does now.
bool is_before(uint32_t other, uint32_t clock, const Thread& me) {
    if (other == me.index()) {
        return true;
    }
    const Warp& mine = *me.warp;
    const Warp& theirs = *me.block->threads[other].warp;
    return &theirs == &mine ? clock < mine.clock : clock <= mine.seen[theirs.index];
}

// The first reader of the cell since its last write whose read may come after what `me` does now; -1: none.
int64_t unordered_reader(const Block& block, std::size_t cell, const Thread& me) {
    const Warp& mine = *me.warp;
    for (uint32_t left = block.cells[cell].readers; left != 0; left &= left - 1) {
        const auto warp = uint32_t(__builtin_ctz(left));
        const uint32_t read = block.reads[cell * block.warps.size() + warp];
        const uint32_t clock = read >> 8, lane = read & 0xff;
        const bool is_mine = warp == mine.index;
        if (is_mine ? clock < mine.clock || lane == me.lane + 1 : clock <= mine.seen[warp]) {
            continue;
        }
        const uint32_t told = lane != SEVERAL ? lane - 1 : is_mine && me.lane == 0 ? 1 : 0;
        return int64_t(warp) * warp_size() + told;
    }
    return -1;
}

void note_read_of(Block& block, std::size_t cell, const Thread& reader) {
    const Warp& warp = *reader.warp;
    const uint32_t bit = uint32_t(1) << warp.index;
    uint32_t& read = block.reads[cell * block.warps.size() + warp.index];
    const bool others = (block.cells[cell].readers & bit) && read >> 8 == warp.clock && (read & 0xff) != reader.lane + 1;
    read = warp.clock << 8 | (others ? SEVERAL : reader.lane + 1);
    block.cells[cell].readers |= bit;
}

}  // namespace

Range take_shared(uint32_t start, uint32_t bytes, Site site) {
    Thread& me = self();
    const uint32_t available = me.block->launch->shared_bytes;
    if (start > available || bytes > available - start) {
        fault(site, "shared memory: takes %u bytes, launched with %u", start + bytes, available);
    }
    me.taken_bytes = start + bytes;
    return Range{start, bytes};
}

void check_shared(Range range, int64_t offset, uint32_t size, Site site) {
    if (offset < 0 || uint64_t(offset) + size > range.bytes) {
        fault(site, "out of bounds: the %u bytes from %lld on of a shared array of %u", size, (long long)offset, range.bytes);
    }
    if ((range.start + uint32_t(offset)) % size != 0) {
        fault(site, "misaligned: %u bytes at byte %u of shared memory, which is not a multiple of them", size,
              range.start + uint32_t(offset));
    }
}

void note_shared_read(uint32_t start, uint32_t size, const Thread& reader, Site site) {
    Block& block = *reader.block;
    for (uint32_t cell = start / CELL_BYTES; cell < (start + size + CELL_BYTES - 1) / CELL_BYTES; cell++) {
        const Cell& known = block.cells[cell];
        if (known.pending) {
            fault_of(reader, site, "asynchronous copy: reads byte %u of shared memory while a copy into it is under way",
                     cell * CELL_BYTES);
        }
        if (!known.written) {
            fault_of(reader, site, "uninitialised: reads byte %u of shared memory, which nothing has written",
                     cell * CELL_BYTES);
        }
        if (known.writer != 0 && !is_before(known.writer - 1u, known.write_clock, reader)) {
            fault_of(reader, site, "race: reads byte %u of shared memory, which thread %u has written with no barrier between",
                     cell * CELL_BYTES, known.writer - 1u);
        }
        note_read_of(block, cell, reader);
    }
}

void note_shared_write(uint32_t start, uint32_t size, const Thread& writer, Site site) {
    Block& block = *writer.block;
    for (uint32_t cell = start / CELL_BYTES; cell < (start + size + CELL_BYTES - 1) / CELL_BYTES; cell++) {
        Cell& known = block.cells[cell];
        if (known.pending) {
            fault_of(writer, site, "asynchronous copy: writes byte %u of shared memory while a copy into it is under way",
                     cell * CELL_BYTES);
        }
        if (known.writer != 0 && !is_before(known.writer - 1u, known.write_clock, writer)) {
            fault_of(writer, site, "race: writes byte %u of shared memory, as thread %u has with no barrier between",
                     cell * CELL_BYTES, known.writer - 1u);
        }
        const int64_t reader = known.readers == 0 ? -1 : unordered_reader(block, cell, writer);
        if (reader >= 0) {
            fault_of(writer, site, "race: writes byte %u of shared memory, which thread %lld has read with no barrier between",
                     cell * CELL_BYTES, (long long)reader);
        }
        known = Cell{writer.warp->clock, uint16_t(writer.index() + 1), 1, 0, 0};
    }
}

void read_shared(Range range, int64_t offset, uint32_t size, void* value, Site site) {
    check_shared(range, offset, size, site);
    const uint32_t start = range.start + uint32_t(offset);
    note_shared_read(start, size, self(), site);
    count_access(Space::Shared, start, size, site);
    std::memcpy(value, self().block->shared + start, size);
}

void write_shared(Range range, int64_t offset, uint32_t size, const void* value, Site site) {
    check_shared(range, offset, size, site);
    const uint32_t start = range.start + uint32_t(offset);
    note_shared_write(start, size, self(), site);
    count_access(Space::Shared, start, size, site);
    std::memcpy(self().block->shared + start, value, size);
}

}  // namespace emulator
