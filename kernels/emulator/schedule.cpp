// The order in which threads take turns.
#include <algorithm>

#include "machine.h"

namespace emulator {

namespace {
enum Schedule : uint32_t { ROUND_ROBIN, RANDOM, WARP_SKEWED };
}

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

void Ready::push(Thread* thread) {
    if (schedule_ != WARP_SKEWED) {
        threads_.push_back(thread);
        return;
    }
    if (thread->warp->ready.empty()) {
        warps_.push_back(thread->warp);
    }
    thread->warp->ready.push_back(thread);
}

Thread* Ready::pop() {
    if (schedule_ == WARP_SKEWED) {
        return pop_of_warp();
    }
    if (head_ == threads_.size()) {
        return nullptr;
    }
    if (schedule_ == RANDOM) {
        std::swap(threads_[random() % threads_.size()], threads_.back());
        Thread* thread = threads_.back();
        threads_.pop_back();
        return thread;
    }
    Thread* thread = threads_[head_++];
    if (head_ >= 1024 && head_ * 2 >= threads_.size()) {
        threads_.erase(threads_.begin(), threads_.begin() + std::ptrdiff_t(head_));
        head_ = 0;
    }
    return thread;
}

// Another thread of the same warp if there is one, else of any: warps drift apart as far as barriers let them.
Thread* Ready::pop_of_warp() {
    if (warps_.empty()) {
        return nullptr;
    }
    if (ahead_ == nullptr || ahead_->ready.empty()) {
        ahead_ = warps_[random() % warps_.size()];
    }
    std::vector<Thread*>& ready = ahead_->ready;
    std::swap(ready[random() % ready.size()], ready.back());
    Thread* thread = ready.back();
    ready.pop_back();
    if (ready.empty()) {
        warps_.erase(std::find(warps_.begin(), warps_.end(), ahead_));
    }
    return thread;
}

}  // namespace emulator
