//! Calls and bytes of a training step by the closed formulas of `docs/communication.md`, from nothing but the layout of
//! the model and the mesh. No collective is looked at: that a step communicates so, planned or run, is what is held
//! against them.

use tisserand_collectives::{Audit, Axis, Collective};
use tisserand_kernels::device::Caps;
use tisserand_kernels::ops::cross_entropy::CrossEntropyShape;

use crate::model::Transformer;
use crate::model::block::Recompute;
use crate::params::Group;
use crate::step::StepConfig;

/// Elements of a chunk: slices are whole chunks.
const CHUNK: usize = 1024;

/// What a rank's communicators count in one step, by axis in the order of [`Axis::ALL`]. The same at every rank.
/// `caps` are those of the device: they say how many tokens a chunk of the loss has.
pub fn traffic(model: &Transformer, step: &StepConfig, caps: Caps) -> [Audit; 3] {
    let formulas = Formulas { model, step, caps };
    Axis::ALL.map(|axis| match axis {
        Axis::DpReplicate => formulas.along_dp_replicate(),
        Axis::DpShard => formulas.along_dp_shard(),
        Axis::Tp => formulas.along_tp(),
    })
}

/// The tables of `docs/communication.md`, in their words.
struct Formulas<'a> {
    model: &'a Transformer,
    step: &'a StepConfig,
    caps: Caps,
}

impl Formulas<'_> {
    fn ranks(&self, axis: Axis) -> usize {
        self.step.sharding.mesh.size(axis)
    }

    /// Elements P of every group that is not empty, with its unit.
    fn groups(&self) -> impl Iterator<Item = (usize, usize)> {
        let parts = self.ranks(Axis::DpShard) * CHUNK;
        let units = self.model.units.iter().enumerate();
        let all = units.flat_map(|(unit, layout)| layout.groups.iter().map(move |group| (unit, group.len)));
        all.filter(|(_, len)| *len > 0).map(move |(unit, len)| (unit, len.next_multiple_of(parts)))
    }

    /// How often ZeRO 3 gathers a unit in a micro-step.
    fn gathers(&self, unit: usize) -> usize {
        let is_block = (1..=self.model.blocks.len()).contains(&unit);
        let is_root = self.model.config.tie_embeddings && unit == 0;
        if is_block || is_root { 2 } else { 1 }
    }

    fn along_dp_shard(&self) -> Audit {
        let mut audit = Audit::default();
        let (d, m) = (self.ranks(Axis::DpShard), self.step.micro_steps);
        if d == 1 {
            return audit;
        }
        let (g, w) = (self.step.reduce.size_bytes(), self.step.dtypes.compute.size_bytes());
        let (zero, mesh_invariant) = (self.step.sharding.zero, self.step.sharding.mesh_invariant);
        for (unit, p) in self.groups() {
            match zero {
                0 => count(&mut audit, 1, Collective::AllReduce, p * g),
                1 => count(&mut audit, 1, Collective::ReduceScatter, p * g),
                _ => count(&mut audit, m, Collective::ReduceScatter, p * g),
            }
            match zero {
                0 => {}
                1 | 2 => count(&mut audit, 1, Collective::AllGather, p * w),
                _ => count(&mut audit, m * self.gathers(unit), Collective::AllGather, p * w),
            }
        }
        // Losses, then the norm.
        count(&mut audit, 1, Collective::AllReduce, if zero >= 2 { 8 * m } else { 8 });
        match (zero, mesh_invariant) {
            (0, _) => {}
            (_, false) => count(&mut audit, 1, Collective::AllReduce, 4),
            (_, true) => {
                let chunks: usize = self.groups().map(|(_, p)| p / CHUNK).sum();
                count(&mut audit, 1, Collective::AllGather, 4 * chunks);
            }
        }
        audit
    }

    fn along_dp_replicate(&self) -> Audit {
        let mut audit = Audit::default();
        if self.ranks(Axis::DpReplicate) == 1 {
            return audit;
        }
        let (d, g) = (self.ranks(Axis::DpShard), self.step.reduce.size_bytes());
        for (_, p) in self.groups() {
            let reduced = if self.step.sharding.zero == 0 { p } else { p / d };
            count(&mut audit, 1, Collective::AllReduce, reduced * g);
        }
        count(&mut audit, 1, Collective::AllReduce, 8);
        audit
    }

    fn along_tp(&self) -> Audit {
        let mut audit = Audit::default();
        let (d, m, blocks) = (self.ranks(Axis::DpShard), self.step.micro_steps, self.model.blocks.len());
        if self.ranks(Axis::Tp) == 1 {
            return audit;
        }
        let w = self.step.dtypes.compute.size_bytes();
        let activations = self.step.tokens * self.model.config.hidden_size * w;
        let again = self.step.recompute.iter().filter(|mode| **mode == Recompute::Full).count();
        // Embedding, blocks, head; what is done again comes on top.
        count(&mut audit, m * (1 + 4 * blocks + again + 1), Collective::ReduceScatter, activations);
        count(&mut audit, m * (1 + 6 * blocks + 2 * again + 1), Collective::AllGather, activations);
        for chunk in self.chunks() {
            count(&mut audit, m, Collective::AllReduce, 4 * chunk);
            count(&mut audit, m, Collective::AllReduce, 8 * chunk);
        }
        let reduced = if self.step.sharding.zero >= 2 && d > 1 { m } else { 1 };
        for unit in &self.model.units {
            for group in [Group::Vectors, Group::Copies] {
                let len = unit.groups[group as usize].padded_len(d);
                count(&mut audit, if len > 0 { reduced } else { 0 }, Collective::AllReduce, 4 * len);
            }
        }
        count(&mut audit, 1, Collective::AllReduce, 4);
        audit
    }

    /// Tokens of each chunk of the loss.
    fn chunks(&self) -> impl Iterator<Item = usize> {
        let tokens = self.step.tokens;
        let (vocab_size, hidden_size) = (self.model.head.local_rows, self.model.config.hidden_size);
        let chunk = CrossEntropyShape { tokens, vocab_size, hidden_size }.chunk_tokens(self.caps);
        (0..tokens).step_by(chunk.max(1)).map(move |start| chunk.min(tokens - start))
    }
}

fn count(audit: &mut Audit, times: usize, kind: Collective, bytes: usize) {
    (0..times).for_each(|_| audit.count(kind, bytes));
}
