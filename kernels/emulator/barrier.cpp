// Barriers of a block, executed by whole warps.
#include <algorithm>

#include "machine.h"

namespace emulator {
namespace {

struct Arrival {
    uint32_t id, threads;
    bool wait;
};

void join(std::vector<uint32_t>& into, const std::vector<uint32_t>& clocks) {
    into.resize(clocks.size());
    std::transform(into.begin(), into.end(), clocks.begin(), into.begin(),
                   [](uint32_t a, uint32_t b) { return std::max(a, b); });
}

void complete(Block& block, Barrier& barrier, const Warp& last) {
    for (Warp& warp : block.warps) {
        if (!(barrier.waiting >> warp.index & 1)) {
            continue;
        }
        join(warp.seen, barrier.joined);
        for (uint32_t lane = 0; lane < warp_size() && &warp != &last; lane++) {
            wake(warp.threads[lane]);
        }
    }
    barrier = Barrier{};
    block.launch->counters.barriers++;
}

bool arrive(Warp& warp, Site site) {
    Block& block = *self().block;
    const Arrival& arrival = *static_cast<const Arrival*>(warp.operands[0]);
    for (uint32_t lane = 1; lane < warp_size(); lane++) {
        const Arrival& other = *static_cast<const Arrival*>(warp.operands[lane]);
        if (other.id != arrival.id || other.threads != arrival.threads || other.wait != arrival.wait) {
            fault(site, "barrier misuse: threads of one warp at barrier %u for %u threads and at %u for %u", arrival.id,
                  arrival.threads, other.id, other.threads);
        }
    }
    const auto block_threads = uint32_t(block.threads.size());
    const uint32_t threads = arrival.threads == 0 ? block_threads : arrival.threads;
    if (arrival.id >= NUM_BARRIERS || threads % warp_size() != 0 || threads > block_threads) {
        fault(site, "barrier misuse: barrier %u for %u threads of a block of %u", arrival.id, threads, block_threads);
    }
    Barrier& barrier = block.barriers[arrival.id];
    if (barrier.threads != 0 && barrier.threads != threads) {
        fault(site, "barrier misuse: barrier %u for %u threads here and for %u in line %d", arrival.id, threads,
              barrier.threads, barrier.site.line);
    }
    const uint64_t bit = uint64_t(1) << warp.index;
    if (barrier.arrived & bit) {
        fault(site, "barrier misuse: the warp comes to barrier %u twice before it is complete", arrival.id);
    }
    barrier.threads = threads;
    barrier.site = site;
    barrier.arrived |= bit;
    std::vector<uint32_t> clocks = warp.seen;
    clocks[warp.index] = warp.clock;
    join(barrier.joined, clocks);
    warp.clock++;
    if (arrival.wait) {
        barrier.waiting |= bit;
    }
    if (uint32_t(__builtin_popcountll(barrier.arrived)) * warp_size() == threads) {
        complete(block, barrier, warp);
        return true;
    }
    return !arrival.wait;
}

}  // namespace

void barrier(uint32_t id, uint32_t threads, bool wait, Site site) {
    Arrival mine{id, threads, wait};
    together(Together::Barrier, site, &mine, arrive);
}

}  // namespace emulator
