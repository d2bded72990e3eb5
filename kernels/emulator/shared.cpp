// Shared memory: bounds of what a kernel has taken, reads of what nothing has written, and races: two accesses to the
// same bytes, one of them a write, by different threads, with nothing between them that orders them.
#include "machine.h"

namespace emulator {
namespace {

constexpr uint32_t CELL_BYTES = 2;
constexpr uint32_t SEVERAL = 0xff;

// Whether an access of thread `other` at its warp's clock `clock` comes before what `me` does now.
bool is_before(Block& block, uint32_t other, uint32_t clock, const Thread& me) {
    if (other == me.index()) {
        return true;
    }
    const Warp& mine = block.warp_of(me);
    const uint32_t warp = other / warp_size();
    return warp == mine.index ? clock < mine.clock : clock <= mine.seen[warp];
}

// The first reader of the cell since its last write whose read may come after what `me` does now; -1: none.
int64_t unordered_reader(Block& block, uint32_t cell, const Thread& me) {
    const Warp& mine = block.warp_of(me);
    const auto num_warps = uint32_t(block.warps.size());
    for (uint32_t warp = 0; warp < num_warps; warp++) {
        const uint32_t read = block.reads[std::size_t(cell) * num_warps + warp];
        if (read == 0) {
            continue;
        }
        const uint32_t clock = read >> 8, lane = read & 0xff;
        const uint32_t own_lane = me.index() % warp_size() + 1;
        const bool ordered = warp == mine.index ? clock < mine.clock || lane == own_lane : clock <= mine.seen[warp];
        if (!ordered) {
            const bool is_mine = lane == SEVERAL && warp == mine.index;
            return int64_t(warp) * warp_size() + (lane == SEVERAL ? (is_mine && own_lane == 1 ? 1 : 0) : lane - 1);
        }
    }
    return -1;
}

void note_read_of(Block& block, uint32_t cell, const Thread& reader) {
    const Warp& warp = block.warp_of(reader);
    const uint32_t lane = reader.index() % warp_size() + 1;
    uint32_t& read = block.reads[std::size_t(cell) * block.warps.size() + warp.index];
    const bool same_time = read >> 8 == warp.clock;
    const bool others = same_time && (read & 0xff) != lane;
    read = warp.clock << 8 | (others ? SEVERAL : lane);
}

}  // namespace

Range take_shared(uint32_t start, uint32_t bytes, Site site) {
    Thread& me = self();
    const uint32_t available = me.block->launch->shared_bytes;
    if (start + bytes > available) {
        fault(site, "takes %u bytes of shared memory, launched with %u", start + bytes, available);
    }
    me.taken_bytes = start + bytes;
    return Range{start, bytes};
}

void check_shared(Range range, int64_t offset, uint32_t size, Site site) {
    if (offset < 0 || uint64_t(offset) + size > range.bytes) {
        fault(site, "bytes %lld to %lld of a shared array of %u bytes", (long long)offset, (long long)offset + size,
              range.bytes);
    }
    if ((range.start + uint32_t(offset)) % size != 0) {
        fault(site, "%u bytes of shared memory at byte %u, which is not a multiple of them", size,
              range.start + uint32_t(offset));
    }
}

void note_shared_read(uint32_t start, uint32_t size, const Thread& reader, Site site) {
    Block& block = *reader.block;
    for (uint32_t cell = start / CELL_BYTES; cell < (start + size + CELL_BYTES - 1) / CELL_BYTES; cell++) {
        const Cell& known = block.cells[cell];
        if (known.pending) {
            fault(site, "reads byte %u of shared memory while a copy into it is under way", cell * CELL_BYTES);
        }
        if (!known.written) {
            fault(site, "reads byte %u of shared memory, which nothing has written", cell * CELL_BYTES);
        }
        if (known.writer != 0 && !is_before(block, known.writer - 1u, known.write_clock, reader)) {
            fault(site, "race: reads byte %u of shared memory, written by thread %u with no barrier between",
                  cell * CELL_BYTES, known.writer - 1u);
        }
        note_read_of(block, cell, reader);
    }
}

void note_shared_write(uint32_t start, uint32_t size, const Thread& writer, Site site) {
    Block& block = *writer.block;
    const auto num_warps = block.warps.size();
    for (uint32_t cell = start / CELL_BYTES; cell < (start + size + CELL_BYTES - 1) / CELL_BYTES; cell++) {
        Cell& known = block.cells[cell];
        if (known.pending) {
            fault(site, "writes byte %u of shared memory while a copy into it is under way", cell * CELL_BYTES);
        }
        if (known.writer != 0 && !is_before(block, known.writer - 1u, known.write_clock, writer)) {
            fault(site, "race: writes byte %u of shared memory, as thread %u did with no barrier between",
                  cell * CELL_BYTES, known.writer - 1u);
        }
        const int64_t reader = unordered_reader(block, cell, writer);
        if (reader >= 0) {
            fault(site, "race: writes byte %u of shared memory, read by thread %lld with no barrier between",
                  cell * CELL_BYTES, (long long)reader);
        }
        known.writer = uint16_t(writer.index() + 1);
        known.write_clock = block.warp_of(writer).clock;
        known.written = 1;
        std::memset(&block.reads[cell * num_warps], 0, num_warps * sizeof(uint32_t));
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
