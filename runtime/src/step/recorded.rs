//! Steps that are recorded once and replayed: one call of the device's driver for each micro-batch, where a step that
//! is walked makes one for each kernel.
//!
//! **What a graph holds.** What changes from step to step lies in device memory: the words of [`StepScalars`], and the
//! micro-batch, whose blocks have one length. All else that a step asks of the device is a function of the schedule and
//! of the arena's offsets, which are the same in every step that begins with the same bytes in use; blocks that live
//! longer than a step are taken by [`Executor::new`], and on one rank none takes the place of another. So the graphs
//! hold for every step that finds the arena as the recorded one did, and a step that finds it otherwise is recorded
//! anew. Uploads cannot be recorded: there is a graph for each *stretch* of actions between two of them.
//!
//! **Which step is recorded.** The first one is walked, since a kernel's first launch may make the driver allocate,
//! which a recording forbids; the next is recorded, and done by replaying it. A step that is traced is walked, so that
//! its trace shows every action. All three do the same work on the device.
//!
//! **The host's side of a step** ends where it began (`Executor::is_at_rest`): each micro-batch takes what its forward
//! pass saved, no leaf of gradients is left, and weights are whole as they always are on one rank. So a replay has
//! nothing to do there, and validation, checkpoints and the reading of gradients find what they find after a walk.

use std::ops::Range;

use tisserand_kernels::arena::Occupancy;
use tisserand_kernels::ops::step_scalars::StepScalars;
use tisserand_kernels::{Device, Storage};

use super::{Action, Executor};
use crate::data::MicroBatch;
use crate::error::{Error, Result};

/// What is there of the recording of a step.
pub(super) enum Recording<D: Storage> {
    /// Nothing; no step has been done either.
    Cold,
    /// Nothing, but all kernels have run.
    Warm,
    /// All of it.
    Step(RecordedStep<D>),
}

/// A step as graphs.
pub(super) struct RecordedStep<D: Storage> {
    /// One for each stretch. They keep the arena's memory.
    graphs: Vec<D::Graph>,
    /// The bytes in use when the step began, and when it ended.
    occupancy: Occupancy,
}

impl<D: Device> Executor<D> {
    /// One training step, by graphs where that can be; see the module.
    ///
    /// # Errors
    /// Those of a step that is walked; a device that records nothing; a step that leaves other blocks than it found.
    pub(super) fn train_recorded(
        &mut self,
        inputs: &StepScalars,
        micro_batches: &[MicroBatch],
    ) -> Result<()> {
        debug_assert!(self.is_at_rest(), "a step begins with nothing under way");
        // After an error everything begins anew.
        let recording = std::mem::replace(&mut self.recording, Recording::Cold);
        self.recording = match recording {
            Recording::Cold => {
                self.train_watched(inputs, micro_batches, |_| {})?;
                Recording::Warm
            }
            recording if self.notes.is_tracing() => {
                self.train_watched(inputs, micro_batches, |_| {})?;
                recording
            }
            Recording::Step(step) if self.network.ctx.arena.is_occupied_as(&step.occupancy) => {
                self.replay(&step, inputs, micro_batches)?;
                Recording::Step(step)
            }
            Recording::Warm | Recording::Step(_) => Recording::Step(self.record(inputs, micro_batches)?),
        };
        debug_assert!(self.is_at_rest(), "a step ends with nothing under way");
        Ok(())
    }

    /// A step that is recorded, stretch by stretch, and done as it is.
    fn record(&mut self, inputs: &StepScalars, micro_batches: &[MicroBatch]) -> Result<RecordedStep<D>> {
        let occupancy = self.network.ctx.arena.occupancy();
        let device = self.network.ctx.device.clone();
        self.begin(inputs)?;
        let mut graphs = Vec::with_capacity(micro_batches.len());
        for stretch in stretches(self.actions()) {
            self.act(self.actions()[stretch.start - 1], micro_batches)?;
            let is_first = graphs.is_empty();
            let graph = device.capture(|| {
                if is_first {
                    self.gradients.begin(&self.network.ctx)?;
                }
                stretch.into_iter().try_for_each(|i| self.act(self.actions()[i], micro_batches))
            })?;
            self.notes.begin_graph();
            device.replay(&graph)?;
            graphs.push(graph);
        }
        if !self.network.ctx.arena.is_occupied_as(&occupancy) {
            return Err(Error::fault(
                "a recorded step leaves other blocks in the arena than it found; hint: run.cuda_graph = false \
                 (please report this)",
            ));
        }
        Ok(RecordedStep { graphs, occupancy })
    }

    /// A step from its graphs.
    fn replay(
        &mut self,
        step: &RecordedStep<D>,
        inputs: &StepScalars,
        micro_batches: &[MicroBatch],
    ) -> Result<()> {
        self.begin(inputs)?;
        for (micro_batch, graph) in step.graphs.iter().enumerate() {
            self.act(Action::Load { micro_batch }, micro_batches)?;
            self.notes.begin_graph();
            self.network.ctx.device.replay(graph)?;
        }
        Ok(())
    }
}

/// The actions behind each [`Action::Load`], up to the next one. On one rank, where there is nothing to gather, a step
/// begins with the first load.
fn stretches(actions: &[Action]) -> Vec<Range<usize>> {
    let is_load = |i: &usize| matches!(actions[*i], Action::Load { .. });
    let loads: Vec<usize> = (0..actions.len()).filter(is_load).collect();
    assert_eq!(loads.first(), Some(&0), "on one rank a step begins with a load");
    let ends = loads[1..].iter().copied().chain([actions.len()]);
    loads.iter().zip(ends).map(|(load, end)| load + 1..end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_cut_at_its_loads() {
        let actions = [
            Action::Load { micro_batch: 0 },
            Action::Loss { micro_batch: 0 },
            Action::Load { micro_batch: 1 },
            Action::Loss { micro_batch: 1 },
            Action::Norm,
        ];
        assert_eq!(stretches(&actions), [1..2, 3..5]);
    }
}
