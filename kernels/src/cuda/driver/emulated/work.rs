//! What waits in a stream: everything that a device does, with the memory that it needs.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::abi::{self, Counters, OwnedArg};
use super::memory::Range;
use super::settings::Settings;
use crate::Result;
use crate::cuda::LaunchConfig;

/// One piece of work. Lengths have been checked when it was queued.
pub(super) enum Work {
    /// Host bytes, as they were when the copy was queued, to the device.
    Upload(Box<[u8]>, Range),
    /// From the first range to the second.
    Copy(Range, Range),
    /// Zeros.
    Zero(Range),
    /// The bytes have no owner: whoever reads them before they are written is at fault.
    Discard(Range),
    /// The time goes there.
    Stamp(Arc<OnceLock<Instant>>),
    /// So much of it passes.
    Stall(Duration),
    /// A kernel, its launch and its arguments.
    Launch(&'static str, LaunchConfig, Box<[OwnedArg]>),
    /// All that a graph has recorded.
    Graph(Arc<[Work]>),
}

impl Work {
    /// Whether a GPU's driver would be called for it.
    pub(super) fn is_command(&self) -> bool {
        !matches!(self, Work::Discard(_) | Work::Stamp(_) | Work::Stall(_))
    }

    /// Does it. The error is a kernel's fault.
    pub(super) fn run(&self, settings: &Settings, counters: &mut Counters) -> Result<()> {
        match self {
            Work::Upload(src, dst) => dst.write(src),
            Work::Copy(src, dst) => dst.copy_from(src),
            Work::Zero(dst) => dst.zero(),
            Work::Discard(dead) => dead.poison(),
            Work::Stamp(reached) => {
                reached.get_or_init(Instant::now);
            }
            Work::Stall(time) => std::thread::sleep(*time),
            Work::Launch(kernel, config, args) => {
                return abi::launch(kernel, *config, args, settings, counters);
            }
            Work::Graph(works) => return works.iter().try_for_each(|work| work.run(settings, counters)),
        }
        Ok(())
    }
}
