//! How fast bytes are copied: inside of a device's memory, and between a GPU and its host.

use tisserand_kernels::{Class, Context, DType, Device};
use tisserand_runtime::Result;

use super::measure::{Call, Work};

/// Bytes of a GiB.
pub(super) const GIB: f64 = (1_u64 << 30) as f64;

const UNIT: &str = "GB/s";

/// Copies of 64 MiB are beyond all caches of a core.
const LEAST_BYTES: usize = 64 << 20;
const MOST_BYTES: usize = 1 << 30;

/// Bytes to copy at once: 32 MiB a core, and no more than an eighth of what the rank may take.
pub(super) fn buffer_bytes(cores: usize, free_bytes: f64) -> usize {
    let wanted = (cores * (32 << 20)).clamp(LEAST_BYTES, MOST_BYTES);
    wanted.min((free_bytes / 8.0) as usize).max(1 << 20).next_multiple_of(4096)
}

/// Copies inside of a device's own memory: bytes read plus bytes written.
pub(super) fn copies<D: Device>(check: &'static str, device: &D, bytes: usize) -> Work {
    let call = copy(device.clone(), bytes);
    Work { check, name: "copy", amount: 2.0 * bytes as f64 / 1e9, unit: UNIT, call }
}

fn copy<D: Device>(device: D, bytes: usize) -> Result<Call> {
    let len = bytes / 4;
    let ctx = Context::new(device, 2 * bytes + (1 << 16))?;
    let mut from = ctx.arena.block(Class::Workspace, DType::F32, len)?;
    let mut to = ctx.arena.block(Class::Workspace, DType::F32, len)?;
    ctx.device.zero(from.view_mut([len]))?;
    ctx.device.zero(to.view_mut([len]))?;
    Ok(Box::new(move || {
        ctx.device.copy(from.view([len]), to.view_mut([len]))?;
        Ok(ctx.device.synchronize()?)
    }))
}

/// Copies over a GPU's link to its host, up and down.
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "GPUs alone have a link"))]
pub(super) fn link<D: Device>(check: &'static str, device: &D, bytes: usize) -> [Work; 2] {
    let work = |name, call| Work { check, name, amount: bytes as f64 / 1e9, unit: UNIT, call };
    [
        work("host to GPU", upload(device.clone(), bytes / 4)),
        work("GPU to host", download(device.clone(), bytes / 4)),
    ]
}

fn upload<D: Device>(device: D, len: usize) -> Result<Call> {
    let ctx = Context::new(device, 4 * len + (1 << 16))?;
    let mut block = ctx.arena.block(Class::Workspace, DType::F32, len)?;
    let host = vec![0.0_f32; len];
    Ok(Box::new(move || {
        ctx.device.upload(&host, block.view_mut([len]))?;
        Ok(ctx.device.synchronize()?)
    }))
}

fn download<D: Device>(device: D, len: usize) -> Result<Call> {
    let ctx = Context::new(device, 4 * len + (1 << 16))?;
    let mut block = ctx.arena.block(Class::Workspace, DType::F32, len)?;
    ctx.device.zero(block.view_mut([len]))?;
    let mut host = vec![0.0_f32; len];
    Ok(Box::new(move || Ok(ctx.device.download(block.view([len]), &mut host)?)))
}

#[cfg(test)]
mod tests {
    use tisserand_kernels::Cpu;

    use super::*;

    #[test]
    fn buffers_follow_cores_and_leave_memory_alone() {
        assert_eq!(buffer_bytes(1, 64.0 * GIB), LEAST_BYTES);
        assert_eq!(buffer_bytes(8, 64.0 * GIB), 256 << 20);
        assert_eq!(buffer_bytes(500, 64.0 * GIB), MOST_BYTES);
        assert_eq!(buffer_bytes(8, 0.25 * GIB), 32 << 20);
    }

    #[test]
    fn copies_are_made_on_any_device() {
        let device = Cpu::new(1).unwrap();
        let [up, down] = link("gpu", &device, 1 << 20);
        for work in [copies("memory", &device, 1 << 20), up, down] {
            work.call.unwrap()().unwrap();
        }
    }
}
