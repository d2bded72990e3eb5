//! An engine whose every step is held to the formulas of its traffic.

use std::sync::{Arc, Mutex, PoisonError};

use tisserand_collectives::{Audit, Axis, Collective};
use tisserand_kernels::DType;
use tisserand_kernels::ops::step_scalars::StepScalars;
use tisserand_runtime::Result;
use tisserand_runtime::data::MicroBatch;
use tisserand_runtime::engine::{Engine, Memory, Part, SavedRun};
use tisserand_runtime::model::Transformer;
use tisserand_runtime::parallel::Sharding;
use tisserand_runtime::step::state::Piece;

/// What was seen of all steps.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// How many.
    pub(super) steps: u64,
    /// Of the last one, by axis in the order of [`Axis::ALL`].
    pub(super) last: [Audit; 3],
    /// The first difference, in words.
    pub(super) difference: Option<String>,
}

/// Shared with whoever asks when the run has ended.
pub(super) type Observed = Arc<Mutex<Seen>>;

/// See the module.
pub(super) struct Audited {
    engine: Box<dyn Engine>,
    due: [Audit; 3],
    seen: Observed,
}

impl Audited {
    /// Each step must come to `due`.
    pub(super) fn new(engine: Box<dyn Engine>, due: [Audit; 3], seen: Observed) -> Self {
        Audited { engine, due, seen }
    }

    fn audits(&self) -> [Audit; 3] {
        Axis::ALL.map(|axis| self.engine.audit(axis))
    }
}

/// The first kind of collective that differs.
fn difference(axis: Axis, seen: &Audit, due: &Audit) -> Option<String> {
    let kind = Collective::ALL.into_iter().find(|kind| seen.of(*kind) != due.of(*kind))?;
    let (seen, due) = (seen.of(kind), due.of(kind));
    Some(format!(
        "{} along {}: {} calls of {} bytes together, where {} calls of {} bytes are due",
        kind.name(),
        axis.name(),
        seen.calls,
        seen.payload_bytes,
        due.calls,
        due.payload_bytes
    ))
}

impl Engine for Audited {
    fn train(&mut self, inputs: &StepScalars, micro_batches: &[MicroBatch]) -> Result<()> {
        let before = self.audits();
        self.engine.train(inputs, micro_batches)?;
        let after = self.audits();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.steps += 1;
        seen.last = Axis::ALL.map(|axis| after[axis as usize].since(&before[axis as usize]));
        if seen.difference.is_none() {
            let at = Axis::ALL.into_iter();
            let mut found =
                at.filter_map(|axis| difference(axis, &seen.last[axis as usize], &self.due[axis as usize]));
            let found = found.next().map(|what| format!("step {}: {what}", seen.steps));
            seen.difference = found;
        }
        Ok(())
    }

    fn model(&self) -> &Transformer {
        self.engine.model()
    }

    fn sharding(&self) -> Sharding {
        self.engine.sharding()
    }

    fn initialize(&mut self, seed: u64) -> Result<()> {
        self.engine.initialize(seed)
    }

    fn scalars(&self) -> Result<StepScalars> {
        self.engine.scalars()
    }

    fn set_scalars(&mut self, scalars: &StepScalars) -> Result<()> {
        self.engine.set_scalars(scalars)
    }

    fn losses(&mut self, micro_batch: &MicroBatch) -> Result<[f32; 2]> {
        self.engine.losses(micro_batch)
    }

    fn logits(&mut self, micro_batch: &MicroBatch) -> Result<Vec<f32>> {
        self.engine.logits(micro_batch)
    }

    fn settle(&mut self) -> Result<()> {
        self.engine.settle()
    }

    fn publish(&mut self) -> Result<()> {
        self.engine.publish()
    }

    fn snapshot(&mut self, part: Part) -> Result<Vec<SavedRun>> {
        self.engine.snapshot(part)
    }

    fn read_piece(&self, piece: &Piece<'_>, part: Part, bytes: &mut Vec<u8>) -> Result<()> {
        self.engine.read_piece(piece, part, bytes)
    }

    fn dtype(&self, part: Part) -> DType {
        self.engine.dtype(part)
    }

    fn write_piece(&mut self, piece: &Piece<'_>, part: Part, values: &[f32]) -> Result<()> {
        self.engine.write_piece(piece, part, values)
    }

    fn memory(&self) -> Memory {
        self.engine.memory()
    }

    fn audit(&self, axis: Axis) -> Audit {
        self.engine.audit(axis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_axis_and_kind() {
        let mut due = Audit::default();
        due.count(Collective::AllReduce, 8);
        let mut seen = due;
        assert_eq!(difference(Axis::DpShard, &seen, &due), None);
        seen.count(Collective::AllGather, 4096);
        let expected =
            "all_gather along dp_shard: 1 calls of 4096 bytes together, where 0 calls of 0 bytes are due";
        assert_eq!(difference(Axis::DpShard, &seen, &due).unwrap(), expected);
    }
}
