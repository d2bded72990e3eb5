//! A GPU on the host: the kernels of `kernels/cuda`, run by the emulator of `kernels/emulator`.

mod abi;
mod memory;
mod settings;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Driver, Span};
use crate::cuda::{Arg, LaunchConfig};
use crate::{KernelError, Result};

pub use abi::Counters;
use abi::{Allocation, OwnedArg};
pub use memory::EmulatedMemory;
use memory::Range;
pub use settings::{Completion, Schedule, Settings};

/// A handle to an emulated GPU.
#[derive(Clone)]
pub struct Emulated {
    settings: Settings,
    counters: Arc<Mutex<Counters>>,
}

impl Emulated {
    /// A device of its own.
    pub fn new(settings: Settings) -> Self {
        Emulated { settings, counters: Arc::default() }
    }

    /// What kernels have done so far.
    pub fn counters(&self) -> Counters {
        *self.count()
    }

    /// What kernels have done since the last call.
    pub fn take_counters(&self) -> Counters {
        std::mem::take(&mut *self.count())
    }

    fn count(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Driver for Emulated {
    type Memory = EmulatedMemory;
    type Event = ();

    fn allocate(&self, bytes: usize) -> Result<EmulatedMemory> {
        let allocation =
            Allocation::new(bytes).ok_or(KernelError::OutOfMemory { device: "emulated", bytes })?;
        Ok(EmulatedMemory { allocation: Arc::new(allocation) })
    }

    fn upload(&self, src: &[u8], dst: Span<'_, EmulatedMemory>) -> Result<()> {
        Range::from(dst).write(src);
        Ok(())
    }

    fn download(&self, src: Span<'_, EmulatedMemory>, dst: &mut [u8]) -> Result<()> {
        let src = Range::from(src);
        if let Some(first) = src.first_poisoned() {
            let message = format!("download of {} bytes: byte {first} was never written", dst.len());
            return Err(KernelError::Device(message));
        }
        src.read(dst);
        Ok(())
    }

    fn copy(&self, src: Span<'_, EmulatedMemory>, dst: Span<'_, EmulatedMemory>) -> Result<()> {
        Range::from(dst).copy_from(&src.into());
        Ok(())
    }

    fn zero(&self, dst: Span<'_, EmulatedMemory>) -> Result<()> {
        Range::from(dst).zero();
        Ok(())
    }

    fn discard(&self, dead: Span<'_, EmulatedMemory>) {
        Range::from(dead).poison();
    }

    fn launch(
        &self,
        kernel: &'static str,
        config: LaunchConfig,
        args: &[Arg<'_, EmulatedMemory>],
    ) -> Result<()> {
        let args: Vec<OwnedArg> = args.iter().map(|arg| owned(*arg)).collect();
        abi::launch(kernel, config, &args, &self.settings, &mut self.count())
    }

    fn has_kernel(&self, kernel: &'static str) -> bool {
        abi::has_kernel(kernel, self.settings.warp_size)
    }

    fn record(&self) -> Result<()> {
        Ok(())
    }

    fn wait(&self, _event: &()) -> Result<()> {
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn fork(&self) -> Result<Self> {
        Ok(self.clone())
    }
}

fn owned(arg: Arg<'_, EmulatedMemory>) -> OwnedArg {
    match arg {
        Arg::Read(span) => OwnedArg::Buffer(span.into(), false),
        Arg::Write(span) => OwnedArg::Buffer(span.into(), true),
        Arg::Absent => OwnedArg::Absent,
        Arg::U32(value) => OwnedArg::Scalar(u64::from(value), 4),
        Arg::I32(value) => OwnedArg::Scalar(u64::from(value.cast_unsigned()), 4),
        Arg::U64(value) => OwnedArg::Scalar(value, 8),
        Arg::F32(value) => OwnedArg::Scalar(u64::from(value.to_bits()), 4),
    }
}
