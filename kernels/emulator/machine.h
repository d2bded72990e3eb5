// The machine while a kernel runs: a launch has blocks, a block has warps, a warp has threads. Private to the emulator.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "emulator.h"
#include "fiber.h"

namespace emulator {

constexpr uint32_t MAX_WARP = 64;
constexpr uint32_t NUM_BARRIERS = 16;

// What threads of a warp do together.
enum class Together { Shuffle, Vote, WarpBarrier, Barrier, Multiply, LoadMatrices, StoreMatrices };
const char* name_of(Together what);

enum class State { Ready, WithWarp, AtBarrier, Polling, Done };

// A 16-byte copy under way: into shared memory at `offset`.
struct Copy {
    uint32_t offset;
    const void* src;
    uint32_t valid_bytes;
    Site site;
};

struct Block;

struct Thread {
    Fiber fiber;
    Block* block;
    Position position;
    State state = State::Ready;
    Site site{"", 0};  // of what it waits for
    std::vector<Copy> open;                  // copies since the last commit
    std::vector<std::vector<Copy>> groups;   // committed, oldest first
    uint64_t progress_seen = ~uint64_t(0);   // when it last polled
    uint32_t taken_bytes = 0;                // of shared memory

    uint32_t index() const { return position.thread; }
};

// The threads that execute together, and what orders their accesses to shared memory: an access of warp w at its clock c
// comes before one of warp v if c <= v.seen[w], and before one of another thread of w if c < w.clock.
struct Warp {
    uint32_t index;
    uint32_t arrived = 0, exited = 0;
    Together what{};
    Site site{"", 0};
    void* operands[MAX_WARP];
    uint32_t clock = 1;
    std::vector<uint32_t> seen;
};

struct Barrier {
    uint32_t threads = 0;  // 0: nobody has come since it last completed
    uint64_t arrived = 0, waiting = 0;  // bits of warps
    Site site{"", 0};
    std::vector<uint32_t> joined;  // clocks of those who have come
};

// What is known of two bytes of shared memory.
struct Cell {
    uint32_t write_clock = 0;
    uint16_t writer = 0;  // thread + 1; 0: none
    uint8_t written = 0, pending = 0;
};

struct Launch;

struct Block {
    Launch* launch;
    uint32_t index[3];
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    Barrier barriers[NUM_BARRIERS];
    uint32_t running;  // threads that have not ended
    uint8_t* shared = nullptr;
    std::vector<Cell> cells;
    std::vector<uint32_t> reads;  // [cell][warp]: clock << 8 | lane + 1, or SEVERAL in place of the lane; 0: none

    Warp& warp_of(const Thread& thread);
};

// Threads that can go on, in the order of the schedule.
class Ready {
  public:
    void begin(const EmulatorSettings& settings);
    void push(Thread* thread);
    Thread* pop();  // null if there is none

  private:
    uint64_t random();
    uint32_t schedule_ = 0;
    uint64_t state_ = 0;
    std::vector<Thread*> waiting_;
    std::size_t head_ = 0;
    Thread* last_ = nullptr;
};

struct AccessLog;

struct Launch {
    const Registration* kernel;
    std::vector<Argument> args;
    EmulatorSettings settings;
    uint32_t grid[3];
    uint32_t threads, shared_bytes;
    Ready ready;
    std::vector<Thread*> polling;
    uint64_t progress = 0;
    EmulatorCounters counters{};
    AccessLog* log = nullptr;
    std::string failure;

    bool failed() const { return !failure.empty(); }
};

// The thread that runs now, and its warp.
Thread& self();
Warp& own_warp();
uint32_t warp_size();

// Suspends the thread that runs now, in `state`, until it is woken.
void sleep(State state, Site site);
void wake(Thread& thread);

// Waits until every thread of the warp has come with its operand; the last one calls `leader`, which reads and writes
// all operands and says whether the warp goes on at once (else all sleep at a barrier).
bool together(Together what, Site site, void* operand, bool (*leader)(Warp& warp, Site site));

// Shared memory of the running thread's block, checked.
void check_shared(Range range, int64_t offset, uint32_t size, Site site);
void note_shared_read(uint32_t start, uint32_t size, const Thread& reader, Site site);
void note_shared_write(uint32_t start, uint32_t size, const Thread& writer, Site site);

// Counting, where the settings ask for it.
enum class Space { Shared, Global };
void count_access(Space space, uint64_t address, uint32_t size, Site site);
void finish_counting(Launch& launch);

// A stack for a fiber, and back.
char* take_stack();
void give_stack(char* stack);

std::string place(const Thread& thread, Site site);

}  // namespace emulator
