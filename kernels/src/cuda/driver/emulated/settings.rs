//! How the emulator runs: what hardware leaves open is chosen here, so that tests can choose all of it.

use std::num::NonZeroU32;

/// The order in which the threads of a kernel take turns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Schedule {
    /// One after the other.
    RoundRobin,
    /// In an order drawn from the seed.
    Random(u64),
    /// One warp far ahead of the others, drawn from the seed.
    WarpSkewed(u64),
}

/// When work that is not waited for happens: kernels and copies on a stream, asynchronous copies in a kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Completion {
    /// At once.
    Early,
    /// Not before something waits for it: who lacks a wait reads what is not there yet.
    Late,
    /// On each stream early or late, by the bits of this number (bit 0: the device's first stream); late in
    /// kernels. Work of an early stream that should have waited for a late one overwrites what is still read.
    Mixed(u64),
}

/// Settings of an emulated device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The order of threads.
    pub schedule: Schedule,
    /// The time of asynchronous work.
    pub completion: Completion,
    /// Threads of a warp: 32, or 64 as on AMD's server GPUs.
    pub warp_size: u32,
    /// Blocks that run at the same time.
    pub live_blocks: u32,
    /// Whether accesses are counted, which costs time.
    pub count_accesses: bool,
    /// Of every grid, only so many blocks at either end of each dimension are run, for tensors far larger than this
    /// machine's memory: that of the device takes room only where it is touched, and all of it counts as written.
    pub edge_blocks: Option<NonZeroU32>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            schedule: Schedule::RoundRobin,
            completion: Completion::Early,
            warp_size: 32,
            live_blocks: 2,
            count_accesses: false,
            edge_blocks: None,
        }
    }
}
