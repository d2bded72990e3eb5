//! The order of actions in a step.
//!
//! Communication stands one unit away from what needs it: a unit is gathered before the one ahead of it is
//! computed, and a sum of gradients is collected when the next unit's backward pass has ended. So at most two
//! units are gathered, and two reduced, at a time. Along an axis of one rank nothing is to be done, and no
//! action says so; this file is the only place that asks.

use tisserand_collectives::Axis;

use super::Action;
use crate::model::Transformer;
use crate::parallel::{Gradients, Sharding};

/// A training step of `micro_steps` micro-batches.
pub fn train_step(model: &Transformer, sharding: &Sharding, micro_steps: usize) -> Vec<Action> {
    let mut scheduler =
        Scheduler { model, sharding, micro_steps, actions: Vec::new(), under_way: Vec::new() };
    for micro_batch in 0..micro_steps {
        scheduler.forward(micro_batch);
        scheduler.backward(micro_batch);
    }
    while !scheduler.under_way.is_empty() {
        scheduler.collect();
    }
    scheduler.actions.push(Action::Norm);
    scheduler.update();
    scheduler.actions
}

/// A reduction that was begun.
#[derive(Clone, Copy)]
struct Reduction {
    unit: usize,
    axis: Axis,
    micro_batch: usize,
}

struct Scheduler<'a> {
    model: &'a Transformer,
    sharding: &'a Sharding,
    micro_steps: usize,
    actions: Vec<Action>,
    under_way: Vec<Reduction>,
}

impl Scheduler<'_> {
    /// Embedding and blocks in the order of the forward pass.
    fn trunk(&self) -> impl DoubleEndedIterator<Item = usize> + use<> {
        let blocks = (0..self.model.blocks.len()).map(Transformer::block_unit);
        std::iter::once(Transformer::EMBEDDING_UNIT).chain(blocks)
    }

    fn gather(&mut self, unit: usize) {
        if self.sharding.shards_parameters() {
            self.actions.push(Action::Gather { unit });
        }
    }

    fn release(&mut self, unit: usize) {
        if self.sharding.shards_parameters() {
            self.actions.push(Action::Release { unit });
        }
    }

    fn forward(&mut self, micro_batch: usize) {
        self.gather(Transformer::EMBEDDING_UNIT);
        self.actions.push(Action::Load { micro_batch });
        let last = self.model.blocks.len();
        for unit in self.trunk() {
            // Behind the last block comes the head; with tied embeddings that is unit 0 again, which by then
            // has been released.
            let next = if unit == last { self.model.head_unit() } else { unit + 1 };
            self.gather(next);
            self.actions.push(Action::Forward { unit, micro_batch });
            self.release(unit);
        }
    }

    fn backward(&mut self, micro_batch: usize) {
        let (head, embedding) = (self.model.head_unit(), Transformer::EMBEDDING_UNIT);
        let last = self.model.blocks.len();
        if last > 0 {
            self.gather(last);
        }
        self.actions.push(Action::Loss { micro_batch });
        self.release(head);
        if head != embedding {
            self.ended(head, micro_batch);
        }
        for unit in self.trunk().rev() {
            // The embedding's backward pass reads tokens only.
            if unit > embedding + 1 {
                self.gather(unit - 1);
            }
            self.actions.push(Action::Backward { unit, micro_batch });
            if unit != embedding {
                self.release(unit);
            }
            self.ended(unit, micro_batch);
        }
    }

    /// A unit's gradients of one micro-batch are there.
    fn ended(&mut self, unit: usize, micro_batch: usize) {
        self.collect();
        let is_last = micro_batch + 1 == self.micro_steps;
        if self.sharding.shards_gradients() {
            self.share(unit);
            return self.reduce(unit, Axis::DpShard, micro_batch);
        }
        if Gradients::<tisserand_kernels::DryRun>::has_leaves(self.sharding) {
            self.actions.push(Action::Fold { unit, micro_batch });
        }
        if is_last {
            self.share(unit);
            let axis = if self.sharding.shards() > 1 { Axis::DpShard } else { Axis::DpReplicate };
            self.reduce(unit, axis, micro_batch);
        }
    }

    /// Along `tp` only small groups are summed, at once.
    fn share(&mut self, unit: usize) {
        if self.sharding.mesh.size(Axis::Tp) > 1 {
            self.actions.push(Action::Reduce { unit, axis: Axis::Tp });
        }
    }

    fn reduce(&mut self, unit: usize, axis: Axis, micro_batch: usize) {
        if self.sharding.mesh.size(axis) > 1 {
            self.actions.push(Action::Reduce { unit, axis });
            self.under_way.push(Reduction { unit, axis, micro_batch });
        }
    }

    /// Collects what was begun before the newest backward pass; a step's sum over shards goes on to the sum over
    /// replicas.
    fn collect(&mut self) {
        for Reduction { unit, axis, micro_batch } in std::mem::take(&mut self.under_way) {
            self.actions.push(Action::Collect { unit, axis, micro_batch });
            if axis == Axis::DpShard && micro_batch + 1 == self.micro_steps {
                self.reduce(unit, Axis::DpReplicate, micro_batch);
            }
        }
    }

    /// Ranks that update slices of what all need whole gather it again, while the next unit is updated; the
    /// next step's first use waits.
    fn update(&mut self) {
        let gathers = self.sharding.shards_state() && !self.sharding.shards_parameters();
        for unit in 0..self.model.units.len() {
            self.actions.push(Action::Update { unit });
            if gathers {
                self.actions.push(Action::Gather { unit });
            }
        }
    }
}
