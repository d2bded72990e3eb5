//! All-reduces by size on the communicators of a run, whichever device it takes.

use tisserand_collectives::{Axis, Communicator, ControlPlane, bandwidth};
use tisserand_kernels::Context;
use tisserand_runtime::Result;
use tisserand_runtime::config::{Config, DeviceKind};
use tisserand_runtime::model::Transformer;
use tisserand_runtime::plan;
use tisserand_runtime::train::setup::{sharding, step_config};

use super::link::Linked;
use super::{Place, cpu};
use crate::scaling::record::{BandwidthRecord, BandwidthRow};
use crate::scaling::statistics::Summary;

/// Times them along every axis that has several ranks, in the type in which gradients travel. Sizes go as far as the
/// memory of the run allows: an all-reduce takes no more of the device than a training step.
///
/// # Errors
/// There is no such device; ranks fail.
pub fn all_reduces(
    config: &Config,
    place: Place,
    control: &dyn ControlPlane,
) -> Result<Vec<BandwidthRecord>> {
    match config.run.device {
        DeviceKind::Cpu => on(cpu(config.run.threads, &place)?, config, place, control),
        #[cfg(feature = "gpu")]
        DeviceKind::Cuda => on(super::gpu::open(&place)?.0, config, place, control),
        #[cfg(not(feature = "gpu"))]
        DeviceKind::Cuda => Err(super::without_gpus()),
    }
}

fn on<D: Linked>(
    device: D,
    config: &Config,
    place: Place,
    control: &dyn ControlPlane,
) -> Result<Vec<BandwidthRecord>> {
    let sharding = sharding(config, control.rank());
    let model = Transformer::sharded(config.model.clone(), sharding.tp());
    let step = step_config(config, &model, control.rank());
    let (workspace, dtype) = (D::workspace(&place.link), config.precision.reduce);
    let plan = plan::train(device.caps(), &model, &step, config.training.seq_len, workspace)?;
    let copies = sharding.tp().copies(model.config.num_kv_heads);
    let trust = place.link.trust();
    let axes = device.axes(place.link, sharding.mesh, copies, &place.progress)?;
    let along: [(Axis, Box<dyn Communicator<D>>); 3] =
        [(Axis::DpReplicate, axes.replicate), (Axis::DpShard, axes.reduce), (Axis::Tp, axes.tp)];
    let mut along: Vec<_> = along.into_iter().filter(|(_, communicator)| communicator.size() > 1).collect();
    let needed = |ranks: usize, bytes: usize| bandwidth::arena_bytes(workspace, ranks, bytes, dtype);
    let payloads = |ranks: usize| {
        let fits =
            |bytes: &usize| *bytes == bandwidth::PAYLOADS[0] || needed(ranks, *bytes) <= plan.arena_bytes;
        bandwidth::PAYLOADS.into_iter().filter(fits).collect::<Vec<usize>>()
    };
    let most = along.iter().flat_map(|(_, communicator)| {
        let ranks = communicator.size();
        payloads(ranks).into_iter().map(move |bytes| needed(ranks, bytes))
    });
    let ctx = Context::new(device, most.max().unwrap_or(4096))?;
    for (_, communicator) in &mut along {
        bandwidth::all_reduce(communicator.as_mut(), control, &ctx, dtype, &bandwidth::PAYLOADS[..1])?;
    }
    // All have called the same; from here on nobody need ask.
    trust();
    let measure = |(axis, mut communicator): (Axis, Box<dyn Communicator<D>>)| {
        let ranks = communicator.size();
        let timed = bandwidth::all_reduce(communicator.as_mut(), control, &ctx, dtype, &payloads(ranks))?;
        let row = |timed: bandwidth::Timed| {
            let seconds = Summary::of(timed.seconds)?;
            Some(BandwidthRow::new(ranks, timed.payload_bytes, seconds))
        };
        let sizes = timed.into_iter().filter_map(row).collect();
        Ok(BandwidthRecord { axis: axis.name().to_owned(), ranks, dtype: dtype.to_string(), sizes })
    };
    along.into_iter().map(measure).collect()
}
