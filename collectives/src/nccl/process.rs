//! What the communicators of a rank share, and the thread that watches over them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tisserand_kernels::Device;

use super::calls::Calls;
use super::fabric::{Ended, Fabric};
use super::order::Order;
use super::sums::Sums;
use crate::{Collective, CommError, ControlPlane, Failure, Progress};

/// How often the thread looks: a call that has ended is noted as late as this.
const TICK: Duration = Duration::from_millis(5);

/// Of one rank.
pub(super) struct Process<D: Device> {
    pub(super) device: D,
    pub(super) control: Arc<dyn ControlPlane>,
    pub(super) fabric: Arc<dyn Fabric<D>>,
    pub(super) sums: Sums,
    pub(super) timeout: Duration,
    pub(super) progress: Progress,
    /// In which all that its communicators ask of the fabric is done.
    pub(super) order: Arc<Order>,
    pub(super) checked: Arc<AtomicBool>,
    pub(super) ended: Arc<Ended>,
    /// Names of [`Collective::ALL`].
    pub(super) kinds: [Arc<str>; Collective::ALL.len()],
    calls: Mutex<Vec<Weak<Calls<D>>>>,
}

/// Reaches the communicators of a rank from any of its threads. Does not keep them.
#[derive(Clone)]
pub struct Handle {
    checked: Arc<AtomicBool>,
}

impl Handle {
    /// Whether ranks tell each other what they call before anything moves: at first they do. Holds for calls that begin
    /// later. To be changed by all ranks at the same place of the schedule.
    pub fn set_checked(&self, checked: bool) {
        self.checked.store(checked, Ordering::Relaxed);
    }
}

impl<D: Device> Process<D> {
    /// With the thread of the order and the one that watches, which end when the last communicator goes.
    pub(super) fn start(
        device: &D,
        control: Arc<dyn ControlPlane>,
        fabric: Arc<dyn Fabric<D>>,
        sums: Sums,
        timeout: Duration,
    ) -> Result<Arc<Self>, CommError> {
        let process = Arc::new(Process {
            device: device.clone(),
            progress: control.progress().clone(),
            order: Arc::new(Order::start()?),
            control,
            fabric,
            sums,
            timeout,
            checked: Arc::new(AtomicBool::new(true)),
            ended: Arc::default(),
            kinds: Collective::ALL.map(|kind| kind.name().into()),
            calls: Mutex::default(),
        });
        let weak = Arc::downgrade(&process);
        process.control.on_failure(Box::new(move |failure| {
            if let Some(process) = weak.upgrade() {
                process.end(failure);
            }
        }));
        let weak = Arc::downgrade(&process);
        std::thread::Builder::new()
            .name("nccl-watch".to_owned())
            .spawn(move || watch(&weak))
            .map_err(|error| CommError::Kernel(format!("cannot start the thread that watches: {error}")))?;
        Ok(process)
    }

    /// Watches over these as well.
    pub(super) fn add(&self, calls: &Arc<Calls<D>>) {
        let mut all = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|calls| calls.strong_count() > 0);
        all.push(Arc::downgrade(calls));
    }

    pub(super) fn handle(&self) -> Handle {
        Handle { checked: Arc::clone(&self.checked) }
    }

    pub(super) fn checked(&self) -> bool {
        self.checked.load(Ordering::Relaxed)
    }

    /// Ends every call of this rank; the other ranks know.
    fn end(&self, failure: &Failure) {
        self.ended.set(failure.clone());
        abort_all(&self.live());
    }

    /// Ends every call of every rank.
    pub(super) fn fail(&self, failure: Failure) {
        // All ranks end with the failure that was the first, this one too, by the hook.
        self.control.fail(failure.clone());
        self.end(&failure);
    }

    fn live(&self) -> Vec<Arc<Calls<D>>> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.iter().filter_map(Weak::upgrade).collect()
    }

    fn look(&self) {
        if self.ended.error().is_some() {
            return;
        }
        let Some(trouble) = self.live().iter().find_map(|calls| calls.look_after()) else { return };
        if self.ended.await_error().is_none() {
            self.fail(Failure::fault(self.control.rank(), trouble));
        }
    }
}

/// All at once: NCCL frees a communicator's memory, for which the driver waits until the whole GPU is idle. The first
/// of several that are aborted one by one would so wait for the kernels of the others, which nobody has told yet
/// (<https://github.com/NVIDIA/nccl/issues/1013>).
fn abort_all<D: Device>(live: &[Arc<Calls<D>>]) {
    std::thread::scope(|scope| {
        for calls in live {
            let name = "nccl-abort".to_owned();
            let thread = std::thread::Builder::new().name(name).spawn_scoped(scope, move || calls.abort());
            if thread.is_err() {
                calls.abort();
            }
        }
    });
}

fn watch<D: Device>(process: &Weak<Process<D>>) {
    while let Some(process) = process.upgrade() {
        process.look();
        drop(process);
        std::thread::sleep(TICK);
    }
}
