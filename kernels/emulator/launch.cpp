// A launch: blocks in the order of their index, several alive at once, their threads resumed by the schedule until all
// have ended, one faults, or none can go on.
#include <algorithm>
#include <cstdarg>
#include <cstdio>

#include "machine.h"

namespace emulator {

__thread Thread* running_thread = nullptr;
__thread Launch* running_launch = nullptr;
__thread const Position* running_position = nullptr;
__thread uint64_t quick_accesses = 0;

namespace {

const Registration*& kernels() {
    static const Registration* first = nullptr;
    return first;
}

const Registration* find(const Registration* from, const char* name, uint32_t warp) {
    while (from != nullptr && (from->warp != warp || std::strcmp(from->name, name) != 0)) {
        from = from->next;
    }
    return from;
}

const char* base_name(const char* path) {
    const char* slash = std::strrchr(path, '/');
    return slash == nullptr ? path : slash + 1;
}

}  // namespace

Registration::Registration(const char* name, uint32_t warp, uint32_t max_threads, uint32_t arity, uint64_t writes,
                           int32_t (*mismatch)(const EmulatorArg*), void (*call)(const Argument*))
    : name(name), warp(warp), max_threads(max_threads), arity(arity), writes(writes), mismatch(mismatch), call(call),
      next(kernels()) {
    kernels() = this;
}

void wake(Thread& thread) {
    thread.state = State::Ready;
    running_launch->ready.push(&thread);
}

void sleep(State state, Site site) {
    Thread& me = self();
    me.state = state;
    me.site = site;
    suspend(me.fiber, false);
}

std::string place(const Thread& thread, Site site) {
    char text[256];
    const Position& at = thread.position;
    const int length = std::snprintf(text, sizeof(text), "block (%u, %u, %u), thread %u, %s", at.block[0], at.block[1],
                                     at.block[2], at.thread, base_name(site.file));
    return site.line == 0 ? std::string(text) : std::string(text, std::size_t(length)) + ":" + std::to_string(site.line);
}

namespace {

[[noreturn]] void report(const Thread& thread, Site site, const char* format, va_list args) {
    char what[512];
    std::vsnprintf(what, sizeof(what), format, args);
    Launch& launch = *running_launch;
    if (!launch.failed()) {
        launch.failure = std::string("kernel ") + launch.kernel->name + ", " + place(thread, site) + ": " + what;
    }
    suspend(self().fiber, true);
    __builtin_unreachable();
}

}  // namespace

void fault(Site site, const char* format, ...) {
    va_list args;
    va_start(args, format);
    report(self(), site, format, args);
}

void fault_of(const Thread& thread, Site site, const char* format, ...) {
    va_list args;
    va_start(args, format);
    report(thread, site, format, args);
}

namespace {

// A thread that makes so many accesses without waiting for another one spins, for what nobody can write meanwhile.
constexpr uint64_t MOST_ACCESSES = uint64_t(1) << 24;

void run_until_it_waits(Thread& thread) {
    Launch& launch = *running_launch;
    running_thread = &thread;
    running_position = &thread.position;
    quick_accesses = launch.settings.count_accesses ? 0 : MOST_ACCESSES;
    launch.counters.switches++;
    resume(thread.fiber);
    running_thread = nullptr;
}

}  // namespace

uint64_t Launch::next_block(uint64_t index) const {
    const uint64_t num_blocks = uint64_t(grid[0]) * grid[1] * grid[2];
    const uint32_t edge = settings.edge_blocks;
    const auto is_at_edge = [&](uint64_t at, uint32_t extent) { return at < edge || extent - at <= edge; };
    while (edge > 0 && index < num_blocks &&
           !(is_at_edge(index % grid[0], grid[0]) && is_at_edge(index / grid[0] % grid[1], grid[1]) &&
             is_at_edge(index / grid[0] / grid[1], grid[2]))) {
        index++;
    }
    return index;
}

void Launch::run() {
    const uint64_t num_blocks = uint64_t(grid[0]) * grid[1] * grid[2];
    const std::size_t live = std::max<uint32_t>(1, settings.live_blocks);
    const std::string of_kernel = std::string("kernel ") + kernel->name + ", ";
    uint64_t next = next_block(0);
    const auto begin_next = [&](Block& block) {
        block.begin(next);
        next = next_block(next + 1);
    };
    while (next < num_blocks && blocks.size() < live && !failed()) {
        blocks.push_back(std::make_unique<Block>(*this));
        begin_next(*blocks.back());
    }
    std::size_t alive = blocks.size();
    while (!failed() && alive > 0) {
        Thread* thread = ready.pop();
        if (thread == nullptr) {
            failure = of_kernel + deadlock(*this);
            return;
        }
        run_until_it_waits(*thread);
        Block& block = *thread->block;
        if (failed() || block.running > 0) {
            continue;
        }
        const std::string misuse = open_barrier(block);
        if (!misuse.empty()) {
            failure = of_kernel + misuse;
        } else if (next < num_blocks) {
            begin_next(block);
        } else {
            alive--;
        }
    }
}

namespace {

// A tensor that the kernel only reads, hence may read through a cache that sees no writes, and one that it writes.
std::string overlap(const Launch& launch) {
    const auto overlaps = [&](const EmulatorArg& a, const EmulatorArg& b) {
        return a.kind == 0 && b.kind == 0 && a.value < b.value + b.bytes && b.value < a.value + a.bytes;
    };
    const uint64_t writes = launch.kernel->writes;
    for (std::size_t i = 0; i < launch.args.size(); i++) {
        for (std::size_t j = 0; j < launch.args.size(); j++) {
            const bool apart = (writes >> i & 1) || !(writes >> j & 1);
            if (!apart && overlaps(launch.args[i].given, launch.args[j].given)) {
                return ": argument " + std::to_string(i) + " is only read, and overlaps argument " + std::to_string(j) +
                       ", which is written";
            }
        }
    }
    return {};
}

std::string refused_arguments(const Launch& launch) {
    const Registration& kernel = *launch.kernel;
    if (launch.args.size() != kernel.arity) {
        return " has " + std::to_string(kernel.arity) + " parameters, launched with " + std::to_string(launch.args.size());
    }
    std::vector<EmulatorArg> given;
    for (const Argument& arg : launch.args) {
        given.push_back(arg.given);
    }
    const int32_t mismatch = kernel.mismatch(given.data());
    if (mismatch >= 0) {
        return ": argument " + std::to_string(mismatch) + " does not fit its parameter (tensor, integer or not, size, const)";
    }
    for (std::size_t i = 0; i < given.size(); i++) {
        if (given[i].kind == 0 && given[i].bytes > 0 && launch.args[i].unwritten == nullptr) {
            return ": argument " + std::to_string(i) + " is not inside of one allocation";
        }
    }
    return overlap(launch);
}

std::string refused_shape(const Launch& launch) {
    const uint32_t most_threads = std::min(launch.kernel->max_threads, MAX_THREADS);
    if (launch.threads == 0 || launch.threads > most_threads || launch.threads % launch.settings.warp_size != 0) {
        return ": " + std::to_string(launch.threads) + " threads; at most " + std::to_string(most_threads) +
               ", in multiples of the warp";
    }
    const uint32_t* grid = launch.grid;
    if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0 || grid[1] > 65535 || grid[2] > 65535 || grid[0] > 0x7fffffff) {
        return ": a grid that no GPU takes";
    }
    constexpr uint32_t MOST_SHARED_BYTES = 227 << 10;
    if (launch.shared_bytes > MOST_SHARED_BYTES) {
        return ": " + std::to_string(launch.shared_bytes) + " bytes of shared memory; a block has at most " +
               std::to_string(MOST_SHARED_BYTES);
    }
    return {};
}

// Why the launch cannot be made; empty if it can.
std::string refusal(const Launch& launch) {
    const Registration& kernel = *launch.kernel;
    std::string why;
    if (find(kernel.next, kernel.name, kernel.warp) != nullptr) {
        why = ": there are two of this name";
    }
    if (why.empty()) {
        why = refused_arguments(launch);
    }
    if (why.empty()) {
        why = refused_shape(launch);
    }
    return why.empty() ? why : std::string("kernel ") + kernel.name + why;
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
    return find(kernels(), kernel, warp_size) != nullptr;
}

extern "C" int32_t emulator_launch(const char* kernel, const uint32_t grid[3], uint32_t threads,
                                   uint32_t shared_bytes, const EmulatorArg* args, uint32_t num_args,
                                   const EmulatorSettings* settings, EmulatorCounters* counters, char* message,
                                   uint64_t message_bytes) {
    Launch launch;
    launch.kernel = find(kernels(), kernel, settings->warp_size);
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
    running_launch = &launch;
    launch.run();
    finish_counting(launch);
    running_launch = nullptr;
    if (counters != nullptr) {
        *counters = launch.counters;
    }
    if (launch.failed()) {
        tell(launch.failure, message, message_bytes);
        return 1;
    }
    return 0;
}
