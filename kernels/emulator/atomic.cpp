// Atomic operations, and the waiting for a value: a thread that asks again for what has not changed sleeps until some
// thread has changed something, so that waiting costs nothing and a wait in vain is a deadlock.
#include "machine.h"

namespace emulator {
namespace {

// Those who poll look again.
void note_progress() {
    Launch& launch = *running_launch;
    launch.progress++;
    for (Thread* thread : launch.polling) {
        wake(*thread);
    }
    launch.polling.clear();
}

}  // namespace

uint32_t atomic_add(const Buffer& buffer, uint32_t* data, int64_t i, uint32_t value, Site site) {
    read<uint32_t>(buffer, data, i, sizeof(uint32_t), site);
    uint32_t* address = write(buffer, data, i, sizeof(uint32_t), site);
    note_progress();
    return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);
}

uint32_t load_acquire(const Buffer& buffer, const uint32_t* data, int64_t i, Site site) {
    Launch& launch = *running_launch;
    Thread& me = self();
    if (me.progress_seen == launch.progress) {
        launch.polling.push_back(&me);
        sleep(State::Polling, site);
    }
    me.progress_seen = launch.progress;
    return __atomic_load_n(read<uint32_t>(buffer, data, i, sizeof(uint32_t), site), __ATOMIC_SEQ_CST);
}

void store_release(const Buffer& buffer, uint32_t* data, int64_t i, uint32_t value, Site site) {
    __atomic_store_n(write(buffer, data, i, sizeof(uint32_t), site), value, __ATOMIC_SEQ_CST);
    note_progress();
}

}  // namespace emulator
