// Blocks: their threads from beginning to end, and why none of them can go on.
#include <cstdlib>

#include "machine.h"

namespace emulator {
namespace {

constexpr std::size_t CELL_BYTES = 2;

// The oldest copy that the thread has not waited for; null if there is none.
const Copy* unfinished(const Thread& thread) {
    for (const auto& group : thread.groups) {
        if (!group.empty()) {
            return &group.front();
        }
    }
    return thread.open.empty() ? nullptr : &thread.open.front();
}

void run_thread(void* argument) {
    auto& me = *static_cast<Thread*>(argument);
    const Launch& launch = *running_launch;
    launch.kernel->call(launch.args.data());
    Warp& warp = *me.warp;
    if (warp.arrived > 0) {
        fault(warp.site, "divergence: this thread of the warp has ended, others are at %s", name_of(warp.what));
    }
    if (const Copy* copy = unfinished(me)) {
        fault(copy->site, "asynchronous copy: the thread ends while it is under way");
    }
    if (me.taken_bytes != launch.shared_bytes) {
        fault(Site{"its end", 0}, "shared memory: it has taken %u bytes, launched with %u", me.taken_bytes,
              launch.shared_bytes);
    }
    warp.exited++;
    me.state = State::Done;
    me.block->running--;
    suspend(me.fiber, true);
}

}  // namespace

Block::Block(Launch& launch) : launch(&launch), threads(launch.threads) {
    const uint32_t warp_size = launch.settings.warp_size;
    warps.resize(launch.threads / warp_size);
    for (uint32_t i = 0; i < launch.threads; i++) {
        Thread& thread = threads[i];
        thread.block = this;
        thread.warp = &warps[i / warp_size];
        thread.lane = i % warp_size;
    }
    // Exactly the bytes that the kernel has, so that AddressSanitizer sees what leaves them.
    void* memory = nullptr;
    if (launch.shared_bytes > 0 && posix_memalign(&memory, 1024, launch.shared_bytes) != 0) {
        memory = nullptr;
    }
    shared = static_cast<uint8_t*>(memory);
    cells.resize((launch.shared_bytes + CELL_BYTES - 1) / CELL_BYTES);
    reads.resize(cells.size() * warps.size());
}

Block::~Block() {
    for (Thread& thread : threads) {
        forget_frames(thread.fiber);
        give_stack(thread.fiber.stack);
    }
    std::free(shared);
}

void Block::begin(uint64_t index) {
    const uint32_t* grid = launch->grid;
    const Position at{0,
                      launch->threads,
                      {uint32_t(index % grid[0]), uint32_t(index / grid[0] % grid[1]), uint32_t(index / grid[0] / grid[1])},
                      {grid[0], grid[1], grid[2]}};
    for (uint32_t i = 0; i < warps.size(); i++) {
        Warp& warp = warps[i];
        warp.threads = &threads[std::size_t(i) * launch->settings.warp_size];
        warp.index = i;
        warp.arrived = warp.exited = 0;
        warp.clock = 1;
        warp.seen.assign(warps.size(), 0);
    }
    for (Barrier& barrier : barriers) {
        barrier = Barrier{};
    }
    if (launch->shared_bytes > 0) {
        std::memset(shared, 0xFF, launch->shared_bytes);
    }
    cells.assign(cells.size(), Cell{});
    running = launch->threads;
    for (uint32_t i = 0; i < launch->threads; i++) {
        Thread& thread = threads[i];
        thread.position = at;
        thread.position.thread = i;
        thread.state = State::Ready;
        thread.site = Site{"its start", 0};
        thread.open.clear();
        thread.groups.clear();
        thread.progress_seen = ~uint64_t(0);
        thread.taken_bytes = 0;
        if (thread.fiber.stack == nullptr) {
            thread.fiber.stack = take_stack();
        }
        if (thread.fiber.stack == nullptr || (shared == nullptr && launch->shared_bytes > 0)) {
            launch->failure = std::string("kernel ") + launch->kernel->name + ": no memory for its blocks";
            return;
        }
        prepare(thread.fiber, run_thread, &thread);
        launch->ready.push(&thread);
    }
}

namespace {

std::string waits_for(const Thread& thread) {
    switch (thread.state) {
        case State::Polling: return "a value that nobody writes";
        case State::WithWarp: return "the other threads of its warp at " + std::string(name_of(thread.warp->what));
        case State::AtBarrier: return "a barrier";
        case State::Ready:
        case State::Done: break;
    }
    return "nothing";
}

bool wait_alike(const Thread& a, const Thread& b) {
    return a.state == b.state && a.site == b.site;
}

}  // namespace

std::string deadlock(const Launch& launch) {
    constexpr std::size_t MOST_TOLD = 4;
    std::vector<const Thread*> told;
    uint32_t waiting = 0, ended = 0;
    for (const auto& block : launch.blocks) {
        for (const Thread& thread : block->threads) {
            if (thread.state == State::Done) {
                ended++;
                continue;
            }
            waiting++;
            bool is_new = told.size() < MOST_TOLD;
            for (const Thread* other : told) {
                is_new = is_new && !wait_alike(*other, thread);
            }
            if (is_new) {
                told.push_back(&thread);
            }
        }
    }
    std::string text;
    for (const Thread* thread : told) {
        text += thread == told.front() ? place(*thread, thread->site) + ": deadlock: it waits for "
                                       : "; " + place(*thread, thread->site) + " for ";
        text += waits_for(*thread);
    }
    return text + " (" + std::to_string(waiting) + " threads wait, " + std::to_string(ended) + " have ended)";
}

std::string open_barrier(const Block& block) {
    for (uint32_t id = 0; id < NUM_BARRIERS; id++) {
        const Barrier& barrier = block.barriers[id];
        if (barrier.arrived != 0) {
            return place(block.threads[0], barrier.site) + ": barrier misuse: the block ends, and barrier " +
                   std::to_string(id) + " is not complete";
        }
    }
    return {};
}

}  // namespace emulator
