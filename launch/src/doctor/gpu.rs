//! The rank's GPU: what it is, how fast it computes and copies.

use tisserand_collectives::{Channel, ControlPlane};
use tisserand_kernels::Device;
use tisserand_runtime::Result;

use super::finding::Finding;
use super::memory::GIB;
use super::{gemm, measure, memory};
use crate::device::{self, OpenGpu, Place};

const CHECK: &str = "gpu";

/// Less free memory than this share of all: somebody else is on it.
const FREE_SHARE: f64 = 0.9;

/// Opens this rank's GPU, if this build can and all ranks have one: all ranks take the same kind of device.
pub(super) fn open(
    control: &dyn ControlPlane,
    place: &Place,
    findings: &mut Vec<Finding>,
) -> Result<Option<OpenGpu>> {
    let Some(opened) = device::open_gpu(place) else { return Ok(None) };
    let without = control.sum(Channel::Step, u64::from(opened.is_err()))?;
    match opened {
        Err(error) => {
            let finding = Finding::text(CHECK, "name", "none");
            let everywhere = without == control.world_size() as u64;
            findings.push(if everywhere {
                finding.warn(error.to_string())
            } else {
                finding.fail(error.to_string())
            });
            Ok(None)
        }
        Ok(open) => {
            findings.extend(describe(&open));
            Ok((without == 0).then_some(open))
        }
    }
}

fn describe(open: &OpenGpu) -> Vec<Finding> {
    let facts = open.facts();
    let (all, free) = (facts.memory_bytes as f64, facts.free_bytes as f64);
    let finding = Finding::number(CHECK, "memory free", free / GIB, "GiB");
    let advice = format!(
        "{:.1} of {:.1} GiB are free: another process uses this GPU; hint: nvidia-smi shows which",
        free / GIB,
        all / GIB
    );
    vec![
        Finding::text(CHECK, "name", &facts.name),
        Finding::text(CHECK, "driver", &facts.driver),
        Finding::number(CHECK, "memory", all / GIB, "GiB"),
        if free < FREE_SHARE * all { finding.warn(advice) } else { finding },
    ]
}

/// The rates of a GPU, for about `seconds`. All GPUs of a node work at the same time: they share its memory, its links
/// and its power.
pub(super) fn measure<D: Device>(
    control: &dyn ControlPlane,
    device: &D,
    free_bytes: usize,
    seconds: f64,
) -> Result<Vec<Finding>> {
    let bytes = (1 << 30).min(free_bytes / 8).next_multiple_of(4096);
    let [up, down] = memory::link(CHECK, device, bytes.min(256 << 20));
    let work = vec![memory::copies(CHECK, device, bytes), up, down, gemm::on_gpu(CHECK, device)];
    measure::rates(control, seconds, work)
}
