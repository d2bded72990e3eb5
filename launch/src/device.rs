//! The one place where a device is chosen.

use tisserand_collectives::Single;
use tisserand_kernels::device::Caps;
use tisserand_kernels::ops::cross_entropy::CrossEntropyParams;
use tisserand_kernels::{Context, Cpu, DType, Storage};
use tisserand_runtime::config::{Config, DeviceKind};
use tisserand_runtime::data::MicroBatch;
use tisserand_runtime::decoder::Decoder;
use tisserand_runtime::engine::Engine;
use tisserand_runtime::inference::ModelFolder;
use tisserand_runtime::step::Executor;
use tisserand_runtime::train::DeviceChoice;
use tisserand_runtime::{Error, Result};

/// The device of a run; `threads` CPU workers, 0 for one per core.
pub fn choose(kind: DeviceKind, threads: usize) -> Result<DeviceChoice> {
    match kind {
        DeviceKind::Cpu => {
            let device = Cpu::new(threads)?;
            let description = format!("{} CPU threads", device.num_threads());
            let make = Box::new(move |model, step, arena_bytes| {
                let ctx = Context::new(device, arena_bytes)?;
                Ok(Box::new(Executor::new(ctx, model, step, Box::new(Single::default()))?) as Box<dyn Engine>)
            });
            Ok(DeviceChoice { caps: Cpu::CAPS, description, make })
        }
        DeviceKind::Cuda => Err(not_yet()),
    }
}

/// What plans must know of a device, without starting it.
pub fn caps(kind: DeviceKind) -> Result<Caps> {
    match kind {
        DeviceKind::Cpu => Ok(Cpu::CAPS),
        DeviceKind::Cuda => Err(not_yet()),
    }
}

/// Sums of cross-entropy and z-loss over micro-batches.
pub type Evaluator = Box<dyn FnMut(&MicroBatch) -> Result<[f32; 2]>>;

/// A model that computes losses on the device of a run.
pub fn evaluator(config: &Config, folder: &ModelFolder) -> Result<Evaluator> {
    match config.run.device {
        DeviceKind::Cpu => {
            let device = Cpu::new(config.run.threads)?;
            let training = &config.training;
            let tokens = training.micro_batch * training.seq_len;
            let params = CrossEntropyParams { z_loss: 0.0 };
            let mut network =
                folder.evaluator(device.clone(), config.precision.compute, tokens, training.seq_len)?;
            Ok(Box::new(move |batch| Ok(device.enter(|| network.losses(&params, batch))?)))
        }
        DeviceKind::Cuda => Err(not_yet()),
    }
}

/// A model that generates, on the CPU.
pub fn decoder(
    threads: usize,
    folder: &ModelFolder,
    prompt_len: usize,
    capacity: usize,
) -> Result<Box<dyn Decoder>> {
    Ok(Box::new(folder.decoder(Cpu::new(threads)?, DType::F32, prompt_len, capacity)?))
}

fn not_yet() -> Error {
    Error::input("run.device = \"cuda\": not yet; hint: run.device = \"cpu\"")
}
