//! What a rank keeps of parameters, gradients and optimizer state by ZeRO stage: the tables of docs/memory.md, and
//! plans of small models, held to the same formulas.

use std::collections::BTreeSet;
use std::path::Path;

use tisserand_collectives::{Axis, Mesh, Workspace};
use tisserand_kernels::ops::cross_entropy::CrossEntropyParams;
use tisserand_kernels::{Class, Cpu, DType};
use tisserand_runtime::config::Optimizer;
use tisserand_runtime::hf_config;
use tisserand_runtime::model::Transformer;
use tisserand_runtime::model::block::Recompute;
use tisserand_runtime::parallel::Sharding;
use tisserand_runtime::plan;
use tisserand_runtime::step::schedule::train_step;
use tisserand_runtime::step::{Action, StateDTypes, StepConfig};

/// Bytes per parameter that are kept: weights, master weights, moments, gradients. `levels` is 1, or in
/// mesh-invariant mode the logarithm of the micro-steps, at least 1.
fn kept(zero: u8, shards: f64, compute: DType, levels: f64) -> [f64; 4] {
    let of = |from: u8| if zero >= from { shards } else { 1.0 };
    [compute.size_bytes() as f64 / of(3), 4.0 / of(1), 8.0 / of(1), 4.0 * levels / of(2)]
}

#[test]
fn the_memory_page_has_the_sums() {
    let mut table = String::new();
    for compute in [DType::F32, DType::Bf16] {
        for zero in 0..4 {
            let sums = [1.0, 2.0, 4.0, 8.0, 64.0, 1024.0].map(|d| kept(zero, d, compute, 1.0).iter().sum());
            let cells: Vec<String> = sums.iter().map(|sum: &f64| format!("{sum:.2}")).collect();
            table += &format!("| {zero} | {compute} | {} |\n", cells.join(" | "));
        }
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/memory.md");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains(&table), "put this into docs/memory.md:\n{table}");
}

/// Bytes of leaves and of blocks in flight, whenever they change in a step.
struct InFlight<'a> {
    model: &'a Transformer,
    config: &'a StepConfig,
    leaves: Vec<usize>,
    reduced: Vec<usize>,
    gathered: Vec<usize>,
    seen: BTreeSet<(usize, usize)>,
}

impl InFlight<'_> {
    fn elements(&self, units: &[usize]) -> usize {
        let padded = |unit: &usize| -> usize {
            let groups = self.model.units[*unit].groups.iter();
            groups.map(|group| self.config.sharding.padded_len(group)).sum()
        };
        units.iter().map(padded).sum()
    }

    fn note(&mut self) {
        let wire = self.config.reduce;
        let of_leaves = 4 * self.elements(&self.leaves);
        let in_flight = wire.size_bytes() * self.elements(&self.reduced);
        let gathered = self.config.dtypes.compute.size_bytes() * self.elements(&self.gathered);
        // What travels as it is stays the leaf that it was.
        let (gradients, communication) = match wire {
            DType::F32 => (of_leaves + in_flight, gathered),
            _ => (of_leaves, gathered + in_flight),
        };
        self.seen.insert((gradients, communication));
    }

    fn follow(mut self) -> BTreeSet<(usize, usize)> {
        let sharding = self.config.sharding;
        let has_leaves = sharding.mesh_invariant || sharding.shards_gradients();
        self.note();
        for action in train_step(self.model, &sharding, self.config.micro_steps) {
            match action {
                Action::Gather { unit } if sharding.shards_parameters() => self.gathered.push(unit),
                Action::Release { unit } => self.gathered.retain(|gathered| *gathered != unit),
                Action::Loss { .. } if has_leaves => self.leaves.push(self.model.head_unit()),
                Action::Backward { unit, .. } if has_leaves && !self.leaves.contains(&unit) => {
                    self.leaves.push(unit);
                }
                Action::Fold { unit, .. } => self.leaves.retain(|leaf| *leaf != unit),
                Action::Reduce { unit, axis: Axis::DpShard } if sharding.shards_gradients() => {
                    self.leaves.retain(|leaf| *leaf != unit);
                    self.reduced.push(unit);
                }
                Action::Reduce { unit, .. } if self.config.reduce != DType::F32 => self.reduced.push(unit),
                Action::Collect { unit, .. } => self.reduced.retain(|reduced| *reduced != unit),
                _ => {}
            }
            self.note();
        }
        self.seen
    }
}

fn step(
    model: &Transformer,
    sharding: Sharding,
    micro_steps: usize,
    compute: DType,
    reduce: DType,
) -> StepConfig {
    StepConfig {
        tokens: 24,
        micro_steps,
        positions: 24,
        dtypes: StateDTypes { compute, master: DType::F32, moments: DType::F32 },
        reduce,
        recompute: vec![Recompute::None; model.blocks.len()],
        cross_entropy: CrossEntropyParams { z_loss: 0.0 },
        optimizer: Optimizer {
            lr: 1e-3,
            betas: [0.9, 0.95],
            eps: 1e-8,
            weight_decay: 0.1,
            grad_clip: Some(1.0),
            groups: Vec::new(),
        },
        sharding,
        cuda_graph: false,
    }
}

fn check(model: &Transformer, config: &StepConfig) {
    let sharding = config.sharding;
    let plan = plan::train(Cpu::CAPS, model, config, config.positions, Workspace::None).unwrap();
    let groups = model.units.iter().flat_map(|unit| &unit.groups);
    let elements: usize = groups.map(|group| sharding.padded_len(group)).sum();
    let levels = match sharding.mesh_invariant {
        true => config.micro_steps.ilog2().max(1),
        false => 1,
    };
    let shards = sharding.shards() as f64;
    let kept = kept(sharding.zero, shards, config.dtypes.compute, f64::from(levels));
    let [weights, master, moments, gradients] = kept.map(|bytes| (bytes * elements as f64) as usize);
    let what = format!("{sharding:?}, {} micro-steps, {}", config.micro_steps, config.reduce);
    assert_eq!(plan.peak.of(Class::Weights), weights, "weights, {what}");
    assert_eq!(plan.peak.of(Class::Master), master, "master weights, {what}");
    assert_eq!(plan.peak.of(Class::Moments), moments, "moments, {what}");
    let in_flight = InFlight {
        model,
        config,
        leaves: Vec::new(),
        reduced: Vec::new(),
        gathered: Vec::new(),
        seen: BTreeSet::new(),
    };
    let transient = (plan.peak.of(Class::Gradients) - gradients, plan.peak.of(Class::Communication));
    let seen = in_flight.follow();
    assert!(seen.contains(&transient), "{transient:?} is none of {seen:?}, {what}");
}

#[test]
fn plans_hold_what_the_formulas_say() {
    for name in ["llama-tiny", "qwen2-window-tied"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name);
        let model = Transformer::new(hf_config::read(&folder.join("config.json")).unwrap());
        for (shards, zero) in [1, 2, 4, 8].iter().flat_map(|&d| (0..4).map(move |zero| (d, zero))) {
            for micro_steps in [1, 2, 8] {
                for (compute, reduce, mesh_invariant) in [
                    (DType::F32, DType::F32, false),
                    (DType::Bf16, DType::F32, false),
                    (DType::Bf16, DType::Bf16, false),
                    (DType::F32, DType::F32, true),
                ] {
                    let mesh = Mesh::new(1, shards, 1);
                    let sharding = Sharding { mesh, rank: shards - 1, zero, mesh_invariant };
                    check(&model, &step(&model, sharding, micro_steps, compute, reduce));
                }
            }
        }
    }
}
