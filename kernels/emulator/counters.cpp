// What the memories would spend on a warp's accesses. Threads run one by one here, so the accesses that a warp makes with
// one instruction are found again by their line and by how often each thread has come to it.
//
// Shared memory has 32 banks of 4 bytes; accesses of 4 bytes or less take all lanes at once, of 8 half of them, of 16 a
// quarter; each such part takes as many wavefronts as its fullest bank has different words. Device memory moves sectors
// of 32 bytes.
#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "machine.h"

namespace emulator {
namespace {

struct Access {
    uint32_t lane;
    uint64_t address;
    uint32_t size;
};

using Instruction = std::tuple<uint64_t, uint32_t, Space, const char*, int, uint32_t>;

uint64_t wavefronts(const std::vector<Access>& accesses, uint64_t& at_best) {
    constexpr uint32_t BANKS = 32, BANK_BYTES = 4;
    const uint32_t size = accesses.front().size;
    const uint32_t lanes = size <= 4 ? 32 : size == 8 ? 16 : 8;
    uint64_t total = 0;
    std::map<uint32_t, std::vector<Access>> parts;
    for (const Access& access : accesses) {
        parts[access.lane / lanes].push_back(access);
    }
    for (const auto& [part, members] : parts) {
        std::map<uint32_t, std::set<uint64_t>> words;
        for (const Access& access : members) {
            for (uint64_t word = access.address / BANK_BYTES; word * BANK_BYTES < access.address + access.size; word++) {
                words[word % BANKS].insert(word);
            }
        }
        std::size_t fullest = 0;
        for (const auto& [bank, different] : words) {
            fullest = std::max(fullest, different.size());
        }
        total += fullest;
        at_best++;
    }
    return total;
}

uint64_t sectors(const std::vector<Access>& accesses, uint64_t& at_best) {
    constexpr uint64_t SECTOR_BYTES = 32;
    std::set<uint64_t> touched;
    std::set<uint64_t> bytes;
    for (const Access& access : accesses) {
        for (uint64_t at = access.address; at < access.address + access.size; at++) {
            touched.insert(at / SECTOR_BYTES);
            bytes.insert(at);
        }
    }
    at_best += (bytes.size() + SECTOR_BYTES - 1) / SECTOR_BYTES;
    return touched.size();
}

}  // namespace

struct AccessLog {
    std::map<Instruction, std::vector<Access>> accesses;
    std::map<std::tuple<uint64_t, uint32_t, Space, const char*, int>, uint32_t> times;
};

void log_access(Space space, uint64_t address, uint32_t size, Site site) {
    Thread& me = self();
    Launch& launch = *running_launch;
    if (launch.log == nullptr) {
        launch.log = new AccessLog;
    }
    const Position& at = me.position;
    const uint64_t block = (uint64_t(at.block[2]) * at.grid[1] + at.block[1]) * at.grid[0] + at.block[0];
    const uint32_t time = launch.log->times[{block, me.index(), space, site.file, site.line}]++;
    const Instruction instruction{block, me.index() / warp_size(), space, site.file, site.line, time};
    launch.log->accesses[instruction].push_back(Access{me.index() % warp_size(), address, size});
}

void finish_counting(Launch& launch) {
    if (launch.log == nullptr) {
        return;
    }
    EmulatorCounters& counters = launch.counters;
    for (const auto& [instruction, accesses] : launch.log->accesses) {
        if (std::get<2>(instruction) == Space::Shared) {
            counters.shared_accesses++;
            counters.shared_wavefronts += wavefronts(accesses, counters.shared_wavefronts_at_best);
        } else {
            counters.global_accesses++;
            counters.global_sectors += sectors(accesses, counters.global_sectors_at_best);
        }
    }
    delete launch.log;
    launch.log = nullptr;
}

}  // namespace emulator
