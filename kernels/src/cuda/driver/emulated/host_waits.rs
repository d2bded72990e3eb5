//! How often the host has waited for an emulated device: what a step must not do.

use std::sync::atomic::{AtomicU64, Ordering};

/// Calls in which the host waited, on all streams of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HostWaits {
    /// Of [`Driver::synchronize`](crate::cuda::Driver::synchronize).
    pub synchronizations: u64,
    /// Of [`Driver::download`](crate::cuda::Driver::download).
    pub downloads: u64,
}

/// Counts them.
#[derive(Default)]
pub(super) struct HostWaitCounter {
    synchronizations: AtomicU64,
    downloads: AtomicU64,
}

impl HostWaitCounter {
    pub(super) fn synchronization(&self) {
        self.synchronizations.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn download(&self) {
        self.downloads.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> HostWaits {
        HostWaits {
            synchronizations: self.synchronizations.load(Ordering::Relaxed),
            downloads: self.downloads.load(Ordering::Relaxed),
        }
    }
}
