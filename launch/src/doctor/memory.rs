//! How fast bytes are copied: inside of a device's memory, and between a GPU and its host.

use tisserand_kernels::{Class, Context, DType, Device};
use tisserand_runtime::Result;

use super::finding::{Better, Finding};
use super::measure::fastest;

/// Bytes of a GiB.
pub(super) const GIB: f64 = (1_u64 << 30) as f64;

/// Copies of 64 MiB are beyond all caches of a core.
const LEAST_BYTES: usize = 64 << 20;
const MOST_BYTES: usize = 1 << 30;

/// Bytes to copy at once: 32 MiB a core, and no more than an eighth of what the rank may take.
pub(super) fn buffer_bytes(cores: usize, free_bytes: f64) -> usize {
    let wanted = (cores * (32 << 20)).clamp(LEAST_BYTES, MOST_BYTES);
    wanted.min((free_bytes / 8.0) as usize).max(1 << 20).next_multiple_of(4096)
}

/// The row of a device's own memory: bytes read plus bytes written.
pub(super) fn check<D: Device>(check: &str, device: &D, bytes: usize, seconds: f64) -> Result<Finding> {
    let len = bytes / 4;
    let ctx = Context::new(device.clone(), 2 * bytes + (1 << 16))?;
    let mut from = ctx.arena.block(Class::Workspace, DType::F32, len)?;
    let mut to = ctx.arena.block(Class::Workspace, DType::F32, len)?;
    device.zero(from.view_mut([len]))?;
    device.zero(to.view_mut([len]))?;
    let copy = fastest(seconds, || {
        device.copy(from.view([len]), to.view_mut([len]))?;
        Ok(device.synchronize()?)
    })?;
    Ok(Finding::figure(check, "copy", 2.0 * bytes as f64 / copy / 1e9, "GB/s", Better::Higher))
}

/// The rows of a GPU's link to its host.
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "GPUs alone have a link"))]
pub(super) fn link<D: Device>(check: &str, device: &D, bytes: usize, seconds: f64) -> Result<Vec<Finding>> {
    let len = bytes / 4;
    let ctx = Context::new(device.clone(), bytes + (1 << 16))?;
    let mut block = ctx.arena.block(Class::Workspace, DType::F32, len)?;
    let mut host = vec![0.0_f32; len];
    let up = fastest(seconds / 2.0, || {
        device.upload(&host, block.view_mut([len]))?;
        Ok(device.synchronize()?)
    })?;
    let down = fastest(seconds / 2.0, || Ok(device.download(block.view([len]), &mut host)?))?;
    let row =
        |name, taken: f64| Finding::figure(check, name, bytes as f64 / taken / 1e9, "GB/s", Better::Higher);
    Ok(vec![row("host to GPU", up), row("GPU to host", down)])
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
    fn copies_are_measured_on_any_device() {
        let device = Cpu::new(1).unwrap();
        let mut rows = vec![check("memory", &device, 1 << 20, 0.01).unwrap()];
        rows.extend(link("gpu", &device, 1 << 20, 0.01).unwrap());
        for row in rows {
            assert!(matches!(row.value, super::super::finding::Value::Number(rate) if rate > 0.0), "{row:?}");
        }
    }
}
