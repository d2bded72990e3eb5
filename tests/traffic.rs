//! Calls and payload bytes of a training step against the formulas of `docs/communication.md`: every data-parallel
//! mesh, ZeRO stage and number of micro-steps, and tensor parallelism with each of them, as planned and as run.

mod support {
    pub(crate) mod mesh;
}

use support::mesh::{GLOBAL_BATCH, Spread, fixture, train};
use tisserand_kernels::{Cpu, DType};
use tisserand_runtime::hf_config;
use tisserand_runtime::model::Transformer;
use tisserand_runtime::model::block::Recompute;
use tisserand_runtime::parallel::TpRank;
use tisserand_runtime::plan::formulas;

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
        let expected = formulas::traffic(&model, &spread.step(&model, 0), Cpu::CAPS);
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
