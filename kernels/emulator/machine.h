// The machine while a kernel runs: a launch has blocks, a block has warps, a warp has threads. Private to the emulator.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "emulator.h"
#include "fiber.h"

namespace emulator {

constexpr uint32_t MAX_WARP = 64;
constexpr uint32_t MAX_THREADS = 1024;
constexpr uint32_t NUM_BARRIERS = 16;

inline bool operator==(Site a, Site b) {
    return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

// What threads of a warp do together.
enum class Together { ShuffleXor, ShuffleDown, Shuffle, Vote, WarpBarrier, Barrier, Multiply, LoadMatrices, StoreMatrices };
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
struct Launch;
struct Warp;

struct Thread {
    Fiber fiber;
    Block* block;
    Warp* warp;
    uint32_t lane;
    Position position;
    State state;
    Site site;  // of what it waits for
    std::vector<Copy> open;                 // copies since the last commit
    std::vector<std::vector<Copy>> groups;  // committed, oldest first
    uint64_t progress_seen;                 // when it last polled
    uint32_t taken_bytes;                   // of shared memory

    uint32_t index() const { return position.thread; }
};

// The threads that execute together, and what orders their accesses to shared memory: an access of warp w at its clock c
// comes before one of warp v if c <= v.seen[w], and before one of another thread of w if c < w.clock.
struct Warp {
    Thread* threads;  // of lane 0, the others behind it
    uint32_t index;
    uint32_t arrived, exited;
    Together what;
    Site site;
    void* operands[MAX_WARP];
    uint32_t clock;
    std::vector<uint32_t> seen;
    std::vector<Thread*> ready;  // for the skewed schedule
};

struct Barrier {
    uint32_t threads;  // 0: nobody has come since it last completed
    uint64_t arrived, waiting;  // bits of warps
    Site site;
    std::vector<uint32_t> joined;  // clocks of those who have come
};

// What is known of two bytes of shared memory.
struct Cell {
    uint32_t write_clock;
    uint16_t writer;  // thread + 1; 0: none
    uint8_t written, pending;
    uint32_t readers;  // bits of the warps that have read it since
};
static_assert(MAX_THREADS / 32 <= 32, "a bit of `readers` for each warp");

struct Block {
    Launch* launch;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    Barrier barriers[NUM_BARRIERS];
    uint32_t running;  // threads that have not ended
    uint8_t* shared = nullptr;
    std::vector<Cell> cells;
    std::vector<uint32_t> reads;  // [cell][warp], where `readers` has the warp: clock << 8 | lane + 1, or SEVERAL lanes

    explicit Block(Launch& launch);
    ~Block();
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;

    // Makes it block `index` of the grid, and its threads ready.
    void begin(uint64_t index);
};

// Threads that can go on, in the order of the schedule.
class Ready {
  public:
    void begin(const EmulatorSettings& settings);
    void push(Thread* thread);
    Thread* pop();  // null if there is none

  private:
    uint64_t random();
    Thread* pop_of_warp();

    uint32_t schedule_ = 0;
    uint64_t state_ = 0;
    std::vector<Thread*> threads_;
    std::size_t head_ = 0;
    // Of the skewed schedule: warps that have ready threads, and the one that runs.
    std::vector<Warp*> warps_;
    Warp* ahead_ = nullptr;
};

struct AccessLog;

struct Launch {
    const Registration* kernel;
    std::vector<Argument> args;
    EmulatorSettings settings;
    uint32_t grid[3];
    uint32_t threads, shared_bytes;
    Ready ready;
    std::vector<std::unique_ptr<Block>> blocks;  // alive
    std::vector<Thread*> polling;
    uint64_t progress = 0;
    EmulatorCounters counters{};
    AccessLog* log = nullptr;
    std::string failure;

    bool failed() const { return !failure.empty(); }
    // The first block from `index` on that is run; beyond the last one if there is none.
    uint64_t next_block(uint64_t index) const;
    // Until all of these have ended or there is a failure.
    void run();
};

// What runs on this thread of the host. `running_position` and `quick_accesses` go with it.
extern __thread Thread* running_thread;
extern __thread Launch* running_launch;
inline Thread& self() { return *running_thread; }
inline uint32_t warp_size() { return running_launch->settings.warp_size; }

// Ends the launch with a report about a thread other than the one that runs.
[[noreturn]] __attribute__((format(printf, 3, 4))) void fault_of(const Thread& thread, Site site, const char* format, ...);

// Suspends the thread that runs now, in `state`, until it is woken.
void sleep(State state, Site site);
void wake(Thread& thread);

// Why nobody can go on; what is open at the end of a block, empty if nothing is.
std::string deadlock(const Launch& launch);
std::string open_barrier(const Block& block);

// Waits until every thread of the warp has come with its operand; the last one calls `leader`, which reads and writes
// all operands and says whether the warp goes on at once (else all sleep at a barrier).
void together(Together what, Site site, void* operand, bool (*leader)(Warp& warp, Site site));

// Shared memory of the running thread's block, checked.
void check_shared(Range range, int64_t offset, uint32_t size, Site site);
void note_shared_read(uint32_t start, uint32_t size, const Thread& reader, Site site);
void note_shared_write(uint32_t start, uint32_t size, const Thread& writer, Site site);

// Counting, where the settings ask for it.
enum class Space { Shared, Global };
void log_access(Space space, uint64_t address, uint32_t size, Site site);
inline void count_access(Space space, uint64_t address, uint32_t size, Site site) {
    if (running_launch->settings.count_accesses) {
        log_access(space, address, size, site);
    }
}
void finish_counting(Launch& launch);

// The marks of the bytes from `address`, null if they are not inside of one allocation.
uint8_t* marks_of(const void* address, uint64_t bytes);

std::string place(const Thread& thread, Site site);

}  // namespace emulator
