// What the threads of a warp do together. Each comes with an operand on its stack; the last one to come does the work for
// all. Threads that come to different instructions, or have ended, are a fault: nothing here has a mask.
#include "machine.h"

namespace emulator {

const char* name_of(Together what) {
    switch (what) {
        case Together::ShuffleXor: return "shuffle_xor";
        case Together::ShuffleDown: return "shuffle_down";
        case Together::Shuffle: return "shuffle";
        case Together::Vote: return "a vote";
        case Together::WarpBarrier: return "warp_sync";
        case Together::Barrier: return "a barrier";
        case Together::Multiply: return "multiply_add";
        case Together::LoadMatrices: return "load_matrices";
        case Together::StoreMatrices: return "store_matrices";
    }
    return "?";
}

void together(Together what, Site site, void* operand, bool (*leader)(Warp& warp, Site site)) {
    Thread& me = self();
    Warp& warp = *me.warp;
    if (warp.exited > 0) {
        fault(site, "divergence: %s, but %u threads of the warp have ended", name_of(what), warp.exited);
    }
    if (warp.arrived == 0) {
        warp.what = what;
        warp.site = site;
    } else if (warp.what != what || !(warp.site == site)) {
        fault(site, "divergence: %s, but another thread of the warp is at %s in line %d", name_of(what),
              name_of(warp.what), warp.site.line);
    }
    warp.operands[me.lane] = operand;
    if (++warp.arrived < warp_size()) {
        sleep(State::WithWarp, site);
        return;
    }
    warp.arrived = 0;
    const bool goes_on = leader(warp, site);
    for (uint32_t lane = 0; lane < warp_size(); lane++) {
        Thread& other = warp.threads[lane];
        if (&other == &me) {
            continue;
        }
        if (goes_on) {
            wake(other);
        } else {
            other.state = State::AtBarrier;
        }
    }
    if (!goes_on) {
        sleep(State::AtBarrier, site);
    }
}

namespace {

struct Exchange {
    uint32_t value, selector, result;
};

enum class Pick { Xor, Down, Index };

template <Pick PICK>
bool exchange(Warp& warp, Site site) {
    const uint32_t size = warp_size();
    for (uint32_t lane = 0; lane < size; lane++) {
        const Thread& thread = warp.threads[lane];
        auto* mine = static_cast<Exchange*>(warp.operands[lane]);
        const auto* first = static_cast<const Exchange*>(warp.operands[0]);
        if (PICK != Pick::Index && mine->selector != first->selector) {
            fault(site, "divergence: a shuffle by %u in one lane and by %u in another", first->selector, mine->selector);
        }
        uint32_t source = PICK == Pick::Xor ? lane ^ mine->selector
                          : PICK == Pick::Down ? lane + mine->selector
                                               : mine->selector;
        if (PICK == Pick::Down && mine->selector < size && source >= size) {
            source = lane;
        }
        if (source >= size) {
            fault_of(thread, site, "out of bounds: a shuffle from lane %u of %u", source, size);
        }
        mine->result = static_cast<const Exchange*>(warp.operands[source])->value;
    }
    return true;
}

}  // namespace

uint32_t shuffle_xor(uint32_t value, uint32_t mask, Site site) {
    Exchange mine{value, mask, 0};
    together(Together::ShuffleXor, site, &mine, exchange<Pick::Xor>);
    return mine.result;
}

uint32_t shuffle_down(uint32_t value, uint32_t distance, Site site) {
    Exchange mine{value, distance, 0};
    together(Together::ShuffleDown, site, &mine, exchange<Pick::Down>);
    return mine.result;
}

uint32_t shuffle(uint32_t value, uint32_t source, Site site) {
    Exchange mine{value, source, 0};
    together(Together::Shuffle, site, &mine, exchange<Pick::Index>);
    return mine.result;
}

namespace {

struct Vote {
    bool condition;
    uint64_t result;
};

bool count_votes(Warp& warp, Site) {
    uint64_t votes = 0;
    for (uint32_t lane = 0; lane < warp_size(); lane++) {
        votes |= uint64_t(static_cast<const Vote*>(warp.operands[lane])->condition) << lane;
    }
    for (uint32_t lane = 0; lane < warp_size(); lane++) {
        static_cast<Vote*>(warp.operands[lane])->result = votes;
    }
    return true;
}

}  // namespace

uint64_t ballot(bool condition, Site site) {
    Vote mine{condition, 0};
    together(Together::Vote, site, &mine, count_votes);
    return mine.result;
}

void warp_barrier(Site site) {
    together(Together::WarpBarrier, site, nullptr, [](Warp& warp, Site) {
        warp.clock++;
        return true;
    });
}

}  // namespace emulator
