//! Calls and payload bytes of a training step against the formulas of `docs/communication.md`: every data-parallel
//! mesh, ZeRO stage and number of micro-steps, and tensor parallelism with each of them, as planned and as run.

mod support {
    pub(crate) mod mesh;
}

use support::mesh::{GLOBAL_BATCH, SEQ_LEN, Spread, fixture, train};
use tisserand_collectives::{Audit, Axis, Collective};
use tisserand_kernels::DType;
use tisserand_runtime::hf_config;
use tisserand_runtime::model::Transformer;
use tisserand_runtime::model::block::Recompute;
use tisserand_runtime::parallel::TpRank;
use tisserand_runtime::params::Group;

/// Elements of a chunk: slices are whole chunks.
const CHUNK: usize = 1024;

/// The table of `docs/communication.md`, in its words.
struct Formulas<'a> {
    model: &'a Transformer,
    spread: Spread,
}

impl Formulas<'_> {
    /// Elements P of every group that is not empty, with its unit.
    fn groups(&self) -> impl Iterator<Item = (usize, usize)> {
        let parts = self.spread.dp_shard * CHUNK;
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
        let (d, m) = (self.spread.dp_shard, self.spread.micro_steps());
        if d == 1 {
            return audit;
        }
        let (g, w) = (self.spread.reduce.size_bytes(), self.spread.compute.size_bytes());
        let mut count = |times: usize, kind, bytes| (0..times).for_each(|_| audit.count(kind, bytes));
        for (unit, p) in self.groups() {
            match self.spread.zero {
                0 => count(1, Collective::AllReduce, p * g),
                1 => count(1, Collective::ReduceScatter, p * g),
                _ => count(m, Collective::ReduceScatter, p * g),
            }
            match self.spread.zero {
                0 => {}
                1 | 2 => count(1, Collective::AllGather, p * w),
                _ => count(m * self.gathers(unit), Collective::AllGather, p * w),
            }
        }
        // Losses, then the norm.
        count(1, Collective::AllReduce, if self.spread.zero >= 2 { 8 * m } else { 8 });
        match (self.spread.zero, self.spread.mesh_invariant) {
            (0, _) => {}
            (_, false) => count(1, Collective::AllReduce, 4),
            (_, true) => {
                let chunks: usize = self.groups().map(|(_, p)| p / CHUNK).sum();
                count(1, Collective::AllGather, 4 * chunks);
            }
        }
        audit
    }

    fn along_dp_replicate(&self) -> Audit {
        let mut audit = Audit::default();
        if self.spread.dp_replicate == 1 {
            return audit;
        }
        let (d, g) = (self.spread.dp_shard, self.spread.reduce.size_bytes());
        for (_, p) in self.groups() {
            let reduced = if self.spread.zero == 0 { p } else { p / d };
            audit.count(Collective::AllReduce, reduced * g);
        }
        audit.count(Collective::AllReduce, 8);
        audit
    }

    fn along_tp(&self) -> Audit {
        let mut audit = Audit::default();
        let Spread { tp, dp_shard: d, zero, recompute, compute, micro_batch, .. } = self.spread;
        if tp == 1 {
            return audit;
        }
        let (m, tokens) = (self.spread.micro_steps(), micro_batch * SEQ_LEN);
        let activations = tokens * self.model.config.hidden_size * compute.size_bytes();
        let again = usize::from(recompute == Recompute::Full);
        let blocks = self.model.blocks.len();
        let mut count = |times: usize, kind, bytes| (0..times).for_each(|_| audit.count(kind, bytes));
        // Embedding, blocks, head; the last terms are those of the backward pass.
        count(m * (1 + blocks * (2 + again + 2) + 1), Collective::ReduceScatter, activations);
        count(m * (1 + blocks * (2 + 2 * again + 4) + 1), Collective::AllGather, activations);
        // The vocabulary of a fixture is one chunk.
        count(m, Collective::AllReduce, 4 * tokens);
        count(m, Collective::AllReduce, 8 * tokens);
        let reduced = if zero >= 2 && d > 1 { m } else { 1 };
        for unit in &self.model.units {
            for group in [Group::Vectors, Group::Copies] {
                let len = unit.groups[group as usize].padded_len(d);
                count(if len > 0 { reduced } else { 0 }, Collective::AllReduce, 4 * len);
            }
        }
        count(1, Collective::AllReduce, 4);
        audit
    }

    /// By axis.
    fn traffic(&self) -> [Audit; 3] {
        Axis::ALL.map(|axis| match axis {
            Axis::DpReplicate => self.along_dp_replicate(),
            Axis::DpShard => self.along_dp_shard(),
            Axis::Tp => self.along_tp(),
        })
    }
}

/// Every data-parallel mesh of up to eight ranks, with every ZeRO stage and number of micro-steps.
fn spreads() -> Vec<Spread> {
    let mut spreads = Vec::new();
    for (replicate, shard) in [1, 2, 4, 8].iter().flat_map(|&r| [1, 2, 4, 8].map(|s| (r, s))) {
        for zero in 0..4 {
            for micro_batch in [1, 2, 4, 8] {
                if replicate * shard * micro_batch <= GLOBAL_BATCH {
                    // Recomputation adds nothing: a covering set.
                    let modes = [Recompute::None, Recompute::Selective, Recompute::Full];
                    let recompute = modes[(replicate + shard + zero as usize + micro_batch) % 3];
                    let spread = Spread::one().mesh(replicate, shard, 1, zero);
                    spreads.push(Spread { micro_batch, recompute, ..spread });
                }
            }
        }
    }
    spreads
}

/// Each of [`spreads`] with a model and these types and order of sums.
fn check(name: &str, compute: DType, reduce: DType, mesh_invariant: bool) {
    let with = |spread| Spread { compute, reduce, mesh_invariant, ..spread };
    check_each(name, spreads().into_iter().map(with));
}

fn check_each(name: &str, spreads: impl Iterator<Item = Spread>) {
    let folder = fixture(name);
    let config = hf_config::read(&folder.join("config.json")).unwrap();
    for spread in spreads {
        // Every rank along `tp` has as much, if not the same.
        let model = Transformer::sharded(config.clone(), TpRank { size: spread.tp, rank: 0 });
        let expected = Formulas { model: &model, spread }.traffic();
        let (_, seen) = train(&folder, spread, 1);
        for (rank, seen) in seen.iter().enumerate() {
            assert_eq!(seen.plan.traffic, expected, "planned for rank {rank} of {name}, {spread:?}");
            assert_eq!(seen.traffic, expected, "seen by rank {rank} of {name}, {spread:?}");
        }
    }
}

#[test]
fn tensor_parallel() {
    for name in ["llama-tiny", "qwen2-window-tied", "qwen3-tiny"] {
        let meshes = [[1, 1, 2, 0], [1, 2, 2, 3], [2, 1, 2, 1], [2, 2, 2, 2], [1, 1, 4, 0], [1, 2, 4, 3]];
        let modes = [Recompute::None, Recompute::Selective, Recompute::Full];
        let spreads = meshes.into_iter().flat_map(|[r, s, tp, zero]| {
            [(1, DType::F32), (2, DType::Bf16)].into_iter().flat_map(move |(micro_batch, compute)| {
                let spread = Spread::one().mesh(r, s, tp, zero as u8);
                modes.map(|recompute| Spread { micro_batch, compute, recompute, ..spread })
            })
        });
        check_each(name, spreads);
    }
}

#[test]
fn untied_in_f32() {
    check("llama-tiny", DType::F32, DType::F32, false);
}

#[test]
fn tied_with_biases_in_f32() {
    check("qwen2-window-tied", DType::F32, DType::F32, false);
}

#[test]
fn untied_in_bf16_reduced_in_f32() {
    check("llama-tiny", DType::Bf16, DType::F32, false);
}

#[test]
fn tied_in_f32_reduced_in_bf16() {
    check("qwen2-window-tied", DType::F32, DType::Bf16, false);
}

#[test]
fn untied_in_bf16_reduced_in_bf16() {
    check("llama-tiny", DType::Bf16, DType::Bf16, false);
}

#[test]
fn mesh_invariant_untied() {
    check("llama-tiny", DType::F32, DType::F32, true);
}

#[test]
fn mesh_invariant_tied() {
    check("qwen2-window-tied", DType::F32, DType::F32, true);
}
