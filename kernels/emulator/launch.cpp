// A launch: blocks in the order of their index, several alive at once, their threads resumed by the schedule until all
// have ended, one faults, or none can go on.
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <memory>

#include <sys/mman.h>

#include "machine.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace emulator {

uint8_t* marks_of(const void* address, uint64_t bytes);

namespace {

thread_local Thread* current = nullptr;
thread_local Launch* running = nullptr;

const Registration*& kernels() {
    static const Registration* first = nullptr;
    return first;
}

const Registration* find(const char* name, uint32_t warp) {
    const Registration* kernel = kernels();
    while (kernel != nullptr && (kernel->warp != warp || std::strcmp(kernel->name, name) != 0)) {
        kernel = kernel->next;
    }
    return kernel;
}

const char* base_name(const char* path) {
    const char* slash = std::strrchr(path, '/');
    return slash == nullptr ? path : slash + 1;
}

}  // namespace

Registration::Registration(const char* name, uint32_t warp, uint32_t max_threads, uint32_t arity,
                           int32_t (*mismatch)(const EmulatorArg*), void (*call)(const Argument*))
    : name(name), warp(warp), max_threads(max_threads), arity(arity), mismatch(mismatch), call(call),
      next(kernels()) {
    kernels() = this;
}

Thread& self() { return *current; }
Warp& Block::warp_of(const Thread& thread) { return warps[thread.index() / launch->settings.warp_size]; }
Warp& own_warp() { return current->block->warp_of(*current); }
uint32_t warp_size() { return running->settings.warp_size; }
const Position& position() { return current->position; }

void wake(Thread& thread) {
    thread.state = State::Ready;
    running->ready.push(&thread);
}

void sleep(State state, Site site) {
    Thread& me = self();
    me.state = state;
    me.site = site;
    suspend(me.fiber, false);
}

void note_progress() {
    running->progress++;
    for (Thread* thread : running->polling) {
        wake(*thread);
    }
    running->polling.clear();
}

uint32_t poll(const uint32_t* address, Site site) {
    Thread& me = self();
    if (me.progress_seen == running->progress) {
        running->polling.push_back(&me);
        sleep(State::Polling, site);
    }
    me.progress_seen = running->progress;
    return __atomic_load_n(address, __ATOMIC_SEQ_CST);
}

std::string place(const Thread& thread, Site site) {
    char text[256];
    const Position& at = thread.position;
    std::snprintf(text, sizeof(text), "block (%u, %u, %u), thread %u, %s:%d", at.block[0], at.block[1], at.block[2],
                  at.thread, base_name(site.file), site.line);
    return text;
}

void fault(Site site, const char* format, ...) {
    char what[512];
    va_list args;
    va_start(args, format);
    std::vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    Thread& me = self();
    if (!running->failed()) {
        running->failure = std::string("kernel ") + running->kernel->name + ", " + place(me, site) + ": " + what;
    }
    suspend(me.fiber, true);
    __builtin_unreachable();
}

namespace {

// --- stacks, kept for the next launch of this host thread
thread_local std::vector<char*> free_stacks;

}  // namespace

char* take_stack() {
    if (free_stacks.empty()) {
        void* memory = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        return memory == MAP_FAILED ? nullptr : static_cast<char*>(memory);
    }
    char* stack = free_stacks.back();
    free_stacks.pop_back();
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(stack, STACK_BYTES);
#endif
    return stack;
}

void give_stack(char* stack) { free_stacks.push_back(stack); }

// --- the schedule

void Ready::begin(const EmulatorSettings& settings) {
    schedule_ = settings.schedule;
    state_ = settings.seed * 0x9e3779b97f4a7c15ull + 0x1234567;
}

// splitmix64 (Steele, Lea, Flood 2014).
uint64_t Ready::random() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

void Ready::push(Thread* thread) { waiting_.push_back(thread); }

Thread* Ready::pop() {
    if (head_ == waiting_.size()) {
        waiting_.clear();
        head_ = 0;
        return nullptr;
    }
    std::size_t at = head_;
    if (schedule_ == 1) {
        at += random() % (waiting_.size() - head_);
    } else if (schedule_ == 2 && last_ != nullptr) {
        // Another thread of the same warp if there is one, else any: warps drift apart as far as barriers let them.
        const auto same_warp = [this](const Thread* thread) {
            return thread->block == last_->block && &thread->block->warp_of(*thread) == &last_->block->warp_of(*last_);
        };
        const auto found = std::find_if(waiting_.begin() + std::ptrdiff_t(head_), waiting_.end(), same_warp);
        at = found != waiting_.end() ? std::size_t(found - waiting_.begin())
                                     : head_ + random() % (waiting_.size() - head_);
    }
    std::swap(waiting_[head_], waiting_[at]);
    last_ = waiting_[head_++];
    if (head_ == waiting_.size()) {
        waiting_.clear();
        head_ = 0;
    }
    return last_;
}

namespace {

// --- blocks

void run_thread(void* argument) {
    auto* me = static_cast<Thread*>(argument);
    running->kernel->call(running->args.data());
    Warp& warp = own_warp();
    const Site end{"", 0};
    if (warp.arrived > 0) {
        fault(warp.site, "divergence: a thread of the warp has ended, others are at %s", name_of(warp.what));
    }
    if (!me->open.empty() || !me->groups.empty()) {
        const Site of = me->open.empty() && !me->groups.front().empty() ? me->groups.front().front().site : end;
        for (const auto& group : me->groups) {
            if (!group.empty()) {
                fault(of, "ends while copies into shared memory are under way");
            }
        }
    }
    if (me->taken_bytes != running->shared_bytes) {
        fault(end, "ends having taken %u bytes of shared memory, launched with %u", me->taken_bytes,
              running->shared_bytes);
    }
    warp.exited++;
    me->state = State::Done;
    me->block->running--;
    suspend(me->fiber, true);
}

std::unique_ptr<Block> begin_block(Launch& launch, uint64_t index) {
    auto block = std::make_unique<Block>();
    block->launch = &launch;
    const uint32_t at[3] = {uint32_t(index % launch.grid[0]), uint32_t(index / launch.grid[0] % launch.grid[1]),
                            uint32_t(index / launch.grid[0] / launch.grid[1])};
    const uint32_t num_warps = launch.threads / launch.settings.warp_size;
    block->warps.resize(num_warps);
    for (uint32_t warp = 0; warp < num_warps; warp++) {
        block->warps[warp].index = warp;
        block->warps[warp].seen.assign(num_warps, 0);
    }
    // Exactly the bytes that the kernel has, so that AddressSanitizer sees what leaves them.
    block->shared = launch.shared_bytes == 0
                        ? nullptr
                        : static_cast<uint8_t*>(std::aligned_alloc(1024, (launch.shared_bytes + 1023) / 1024 * 1024));
    if (block->shared != nullptr) {
        std::memset(block->shared, 0xFF, launch.shared_bytes);
    }
    block->cells.resize((launch.shared_bytes + 1) / 2);
    block->reads.assign(block->cells.size() * num_warps, 0);
    block->threads.resize(launch.threads);
    block->running = launch.threads;
    for (uint32_t i = 0; i < launch.threads; i++) {
        Thread& thread = block->threads[i];
        thread.block = block.get();
        thread.position = Position{i, launch.threads, {at[0], at[1], at[2]}, {launch.grid[0], launch.grid[1], launch.grid[2]}};
        prepare(thread.fiber, take_stack(), run_thread, &thread);
        launch.ready.push(&thread);
    }
    return block;
}

void end_block(Block& block) {
    for (Thread& thread : block.threads) {
        give_stack(thread.fiber.stack);
    }
    std::free(block.shared);
}

// One line about why nobody can go on.
std::string deadlock(const std::vector<std::unique_ptr<Block>>& blocks) {
    std::string text = "deadlock:";
    uint32_t told = 0, waiting = 0;
    for (const auto& block : blocks) {
        const Thread* before = nullptr;
        for (const Thread& thread : block->threads) {
            if (thread.state == State::Done) {
                continue;
            }
            waiting++;
            const bool same = before != nullptr && before->state == thread.state && before->site.line == thread.site.line;
            before = &thread;
            if (same || told >= 4) {
                continue;
            }
            const char* for_what = thread.state == State::Polling    ? "a value that nobody writes"
                                   : thread.state == State::WithWarp ? "its warp"
                                                                     : "a barrier";
            text += (told++ == 0 ? " " : "; ") + place(thread, thread.site) + " waits for " + for_what;
        }
    }
    return text + " (" + std::to_string(waiting) + " threads wait)";
}

// A barrier at which some came and others never did.
std::string open_barrier(const Block& block) {
    for (uint32_t id = 0; id < NUM_BARRIERS; id++) {
        if (block.barriers[id].arrived != 0) {
            return place(block.threads[0], block.barriers[id].site) + ": barrier misuse: the block ends, and barrier " +
                   std::to_string(id) + " is not complete";
        }
    }
    return {};
}

void run_blocks(Launch& launch) {
    const uint64_t num_blocks = uint64_t(launch.grid[0]) * launch.grid[1] * launch.grid[2];
    const std::size_t live = std::max<uint32_t>(1, launch.settings.live_blocks);
    std::vector<std::unique_ptr<Block>> blocks;
    uint64_t next = 0;
    const std::string of_kernel = std::string("kernel ") + launch.kernel->name + ", ";
    while (!launch.failed()) {
        while (blocks.size() < live && next < num_blocks) {
            blocks.push_back(begin_block(launch, next++));
        }
        if (blocks.empty()) {
            break;
        }
        Thread* thread = launch.ready.pop();
        if (thread == nullptr) {
            launch.failure = of_kernel + deadlock(blocks);
            break;
        }
        current = thread;
        launch.counters.switches++;
        resume(thread->fiber);
        current = nullptr;
        Block& block = *thread->block;
        if (!launch.failed() && block.running == 0) {
            const std::string misuse = open_barrier(block);
            if (!misuse.empty()) {
                launch.failure = of_kernel + misuse;
                break;
            }
            end_block(block);
            blocks.erase(std::find_if(blocks.begin(), blocks.end(), [&](const auto& b) { return b.get() == &block; }));
        }
    }
    for (const auto& block : blocks) {
        end_block(*block);
    }
}

// Why the launch cannot be made; empty if it can.
std::string refusal(const Launch& launch) {
    const Registration& kernel = *launch.kernel;
    const std::string name = std::string("kernel ") + kernel.name;
    if (launch.args.size() != kernel.arity) {
        return name + " has " + std::to_string(kernel.arity) + " parameters, launched with " +
               std::to_string(launch.args.size());
    }
    std::vector<EmulatorArg> given;
    for (const Argument& arg : launch.args) {
        given.push_back(arg.given);
    }
    const int32_t mismatch = kernel.mismatch(given.data());
    if (mismatch >= 0) {
        return name + ": argument " + std::to_string(mismatch) + " does not fit its parameter (kind, size or const)";
    }
    for (std::size_t i = 0; i < launch.args.size(); i++) {
        if (given[i].kind == 0 && given[i].bytes > 0 && launch.args[i].written == nullptr) {
            return name + ": argument " + std::to_string(i) + " is not inside of one allocation";
        }
    }
    if (launch.threads == 0 || launch.threads > kernel.max_threads || launch.threads % launch.settings.warp_size != 0) {
        return name + ": " + std::to_string(launch.threads) + " threads; at most " +
               std::to_string(kernel.max_threads) + ", in multiples of the warp";
    }
    if (launch.grid[0] == 0 || launch.grid[1] == 0 || launch.grid[2] == 0 || launch.grid[1] > 65535 ||
        launch.grid[2] > 65535 || launch.grid[0] > 0x7fffffff) {
        return name + ": a grid that no GPU takes";
    }
    constexpr uint32_t MOST_SHARED_BYTES = 227 << 10;
    if (launch.shared_bytes > MOST_SHARED_BYTES) {
        return name + ": " + std::to_string(launch.shared_bytes) + " bytes of shared memory; a block has at most " +
               std::to_string(MOST_SHARED_BYTES);
    }
    return {};
}

void tell(const std::string& text, char* message, uint64_t message_bytes) {
    if (message != nullptr && message_bytes > 0) {
        std::snprintf(message, message_bytes, "%s", text.c_str());
    }
}

}  // namespace
}  // namespace emulator

using namespace emulator;

extern "C" int32_t emulator_has_kernel(const char* kernel, uint32_t warp_size) {
    return find(kernel, warp_size) != nullptr;
}

extern "C" int32_t emulator_launch(const char* kernel, const uint32_t grid[3], uint32_t threads,
                                   uint32_t shared_bytes, const EmulatorArg* args, uint32_t num_args,
                                   const EmulatorSettings* settings, EmulatorCounters* counters, char* message,
                                   uint64_t message_bytes) {
    Launch launch;
    launch.kernel = find(kernel, settings->warp_size);
    if (launch.kernel == nullptr) {
        tell(std::string("no kernel ") + kernel + " for warps of " + std::to_string(settings->warp_size), message,
             message_bytes);
        return 2;
    }
    for (uint32_t i = 0; i < num_args; i++) {
        const bool is_buffer = args[i].kind == 0;
        const auto* address = reinterpret_cast<const void*>(args[i].value);
        launch.args.push_back(Argument{args[i], is_buffer ? marks_of(address, args[i].bytes) : nullptr});
    }
    launch.settings = *settings;
    std::copy(grid, grid + 3, launch.grid);
    launch.threads = threads;
    launch.shared_bytes = shared_bytes;
    const std::string refused = refusal(launch);
    if (!refused.empty()) {
        tell(refused, message, message_bytes);
        return 2;
    }
    launch.ready.begin(*settings);
    running = &launch;
    run_blocks(launch);
    finish_counting(launch);
    running = nullptr;
    if (counters != nullptr) {
        *counters = launch.counters;
    }
    if (launch.failed()) {
        tell(launch.failure, message, message_bytes);
        return 1;
    }
    return 0;
}
