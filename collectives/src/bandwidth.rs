//! How long an all-reduce takes, by its size: measured on the communicators that a run has.
//!
//! Blocks are zero, so that repeated sums stay what they are. A time is that of the slowest of all ranks; where the
//! mesh has several groups along an axis, all of them call at once, as in a training step.

use std::time::Instant;

use tisserand_kernels::{Class, Context, DType, Device};

use crate::control::Combine;
use crate::{Call, Channel, CommError, Communicator, ControlPlane, ReduceOp, Workspace};

const CALL: Call = Call::AllReduce(ReduceOp::Sum);

/// Payloads that are measured, in bytes: 64 KiB to 256 MiB.
pub const PAYLOADS: [usize; 7] = [1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26, 1 << 28];

/// Samples of one size: so many fit into [`SIZE_S`] seconds, within these bounds.
const SAMPLES: std::ops::RangeInclusive<u64> = 5..=25;

/// Seconds that one size should take, and seconds that one sample should take at least: several calls, if one is
/// shorter.
const SIZE_S: f64 = 2.0;
const SAMPLE_S: f64 = 0.5e-3;

/// All-reduces of one size.
#[derive(Clone, PartialEq, Debug)]
pub struct Timed {
    /// Bytes of the block of each rank.
    pub payload_bytes: usize,
    /// Seconds of one call, by sample: a mean over the calls of the sample.
    pub seconds: Vec<f64>,
}

/// Bytes of arena that an all-reduce of so many ranks takes, its block included.
pub fn arena_bytes(workspace: Workspace, ranks: usize, payload_bytes: usize, dtype: DType) -> usize {
    // A page for each block, since those begin at aligned addresses.
    let elements = payload_bytes / dtype.size_bytes();
    payload_bytes + workspace.elements(CALL, ranks, elements, dtype) * dtype.size_bytes() + 2 * 4096
}

/// Times all-reduces of these payloads. Every rank of `control` calls it, with the same payloads.
///
/// # Errors
/// What the communicators, the device and the other ranks meet.
pub fn all_reduce<D: Device>(
    communicator: &mut dyn Communicator<D>,
    control: &dyn ControlPlane,
    ctx: &Context<D>,
    dtype: DType,
    payloads: &[usize],
) -> Result<Vec<Timed>, CommError> {
    payloads.iter().map(|&bytes| timed(communicator, control, ctx, dtype, bytes)).collect()
}

fn timed<D: Device>(
    communicator: &mut dyn Communicator<D>,
    control: &dyn ControlPlane,
    ctx: &Context<D>,
    dtype: DType,
    payload_bytes: usize,
) -> Result<Timed, CommError> {
    let len = payload_bytes / dtype.size_bytes();
    let mut first = ctx.arena.block(Class::Communication, dtype, len)?;
    ctx.device.zero(first.view_mut([len]))?;
    // Absent only during a call, and after one that failed.
    let mut block = Some(first);
    let mut sample = |calls: u64| -> Result<u64, CommError> {
        ctx.device.synchronize()?;
        control.barrier(Channel::Step)?;
        let begin = Instant::now();
        for _ in 0..calls {
            block = block.take().map(|block| communicator.run(CALL, block)).transpose()?;
        }
        ctx.device.synchronize()?;
        Ok(begin.elapsed().as_nanos() as u64 / calls)
    };
    // The first call of a size may set up what later ones find; the second says how long one takes.
    sample(1)?;
    let one = control.max(Channel::Step, sample(1)?)? as f64 / 1e9;
    let calls = (SAMPLE_S / one.max(1e-7)).ceil().clamp(1.0, 1000.0) as u64;
    let samples = ((SIZE_S / (one * calls as f64).max(1e-7)) as u64).clamp(*SAMPLES.start(), *SAMPLES.end());
    let mine = (0..samples).map(|_| sample(calls)).collect::<Result<Vec<u64>, CommError>>()?;
    let slowest = control.reduce(Channel::Step, Combine::Max, &mine)?;
    let seconds = slowest.into_iter().map(|ns| ns as f64 / 1e9).collect();
    Ok(Timed { payload_bytes, seconds })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tisserand_kernels::Cpu;

    use super::*;
    use crate::{Memory, Overlap, Progress, threads};

    #[test]
    fn all_ranks_agree_on_the_times_of_every_size() {
        let seats = threads::seats::<Cpu>(2, Duration::from_secs(60));
        let ranks: Vec<_> = std::thread::scope(|scope| {
            let start = |(seat, control): (threads::Seat<Cpu>, Memory)| {
                scope.spawn(move || {
                    let device = Cpu::new(1).unwrap();
                    let mut communicator =
                        seat.take(&device, Overlap::Background, Progress::default()).unwrap();
                    let bytes = arena_bytes(Workspace::None, 2, PAYLOADS[1], DType::F32);
                    let ctx = Context::new(device, bytes).unwrap();
                    all_reduce(&mut communicator, &control, &ctx, DType::F32, &PAYLOADS[..2]).unwrap()
                })
            };
            let started: Vec<_> = seats.into_iter().zip(Memory::new(2)).map(start).collect();
            started.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        assert_eq!(ranks[0], ranks[1]);
        assert_eq!(ranks[0].iter().map(|timed| timed.payload_bytes).collect::<Vec<_>>(), PAYLOADS[..2]);
        let seconds = ranks[0].iter().flat_map(|timed| &timed.seconds);
        assert!(seconds.into_iter().all(|seconds| *seconds > 0.0));
    }
}
