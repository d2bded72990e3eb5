//! Any mesh, one result: losses, gradients and weights of every mesh against those of one rank.

mod support {
    pub(crate) mod mesh;
}

use std::collections::BTreeMap;
use std::path::Path;

use support::mesh::{Computed, GLOBAL_BATCH, Spread, distance, fixture, train};
use tisserand_kernels::DType;
use tisserand_runtime::model::block::Recompute;

const STEPS: usize = 20;

/// Bounds of loss (relative), gradients of the first step and weights after the last (relative L2 of the worst
/// tensor), by measurement with a factor of about 4 in hand.
///
/// Data-parallel meshes add the same micro-batches in another order: a few roundings of f32 per sum.
const DATA_PARALLEL: [f64; 3] = [5e-7, 5e-7, 2e-6];
/// Tensor-parallel ones also cut the products' sums, and AdamW divides by the root of the second moment, which
/// makes small gradients (of biases of keys, say) count like large ones.
const TENSOR_PARALLEL: [f64; 3] = [7e-7, 3e-6, 6e-5];

/// The bound of weights after steps of [`GLOBAL_BATCH`] sequences over all fixtures, where some gradients are zero but
/// for rounding. Measured 8.3e-6 (data parallel).
const WEIGHTS_OF_ANY_MODEL: f64 = 3.5e-5;

/// The same for the other batches. AdamW moves an element by about lr in the direction of its
/// gradient, however small that is, down to its eps: where a gradient is zero but for rounding (always of biases of keys,
/// now and then of an element of any matrix), two orders of summation move it apart by a part of lr. Measured 7.5e-5.
const WEIGHTS_OF_ANY_BATCH: f64 = 2e-4;

/// The larger one. `f64::max` would forget what is not a number.
fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

/// How far a run is from another: loss, gradients of the first step, weights after the last, each at its worst, with
/// the names of the two tensors.
fn distances(got: &Computed, want: &Computed) -> ([f64; 3], [String; 2]) {
    let relative = |a: f32, b: f32| f64::from((a - b).abs() / b.abs());
    let losses = got.losses.iter().zip(&want.losses).map(|(a, b)| relative(a[0], b[0]));
    let loss = losses.fold(0.0, worse);
    let (gradient, of) = distance(&got.gradients, &want.gradients);
    let (weights, at) = distance(&got.weights, &want.weights);
    ([loss, gradient, weights], [of, at])
}

/// Asserts that a run is another one within the bounds of loss, gradients and weights; the distances.
fn assert_close(what: &str, got: &Computed, want: &Computed, bounds: [f64; 3]) -> [f64; 3] {
    let (found, [of, at]) = distances(got, want);
    let [loss, gradient, weights] = found;
    assert!(loss <= bounds[0], "{what}: loss {loss:.2e}");
    assert!(gradient <= bounds[1], "{what}: gradient of {of} {gradient:.2e}");
    assert!(weights <= bounds[2], "{what}: weights of {at} {weights:.2e}");
    found
}

/// Every data-parallel mesh of up to eight ranks.
fn data_parallel() -> Vec<[usize; 2]> {
    let sizes = [1, 2, 4, 8];
    let all = sizes.iter().flat_map(|&r| sizes.iter().map(move |&s| [r, s]));
    all.filter(|[r, s]| r * s <= 8).collect()
}

#[test]
fn data_parallel_meshes_agree_with_one_rank() {
    let folder = fixture("llama-tiny");
    let (one, _) = train(&folder, Spread::one(), STEPS);
    let mut worst = [0.0_f64; 3];
    for [replicate, shard] in data_parallel() {
        for zero in 0..4 {
            // A covering set: each mesh with one mode of recomputation, each mode with each stage.
            let modes = [Recompute::None, Recompute::Selective, Recompute::Full];
            let recompute = modes[(replicate + shard + zero as usize) % 3];
            let spread = Spread { recompute, ..Spread::one().mesh(replicate, shard, 1, zero) };
            let (got, seen) = train(&folder, spread, STEPS);
            let distances = assert_close(&format!("{spread:?}"), &got, &one, DATA_PARALLEL);
            worst = std::array::from_fn(|i| worst[i].max(distances[i]));
            for rank in seen {
                assert_eq!(rank.memory.peak, rank.plan.peak, "{spread:?}");
                assert_eq!(rank.memory.high_water_bytes, rank.plan.arena_bytes, "{spread:?}");
                assert_eq!(rank.traffic, rank.plan.traffic, "{spread:?}");
            }
        }
    }
    let [loss, gradient, weights] = worst;
    println!("worst distances: losses {loss:.1e}, gradients {gradient:.1e}, weights {weights:.1e}");
}

#[test]
fn mesh_invariant_runs_are_bit_equal() {
    for name in ["llama-tiny", "qwen2-window-tied"] {
        let folder = fixture(name);
        let one = Spread { mesh_invariant: true, ..Spread::one() };
        let (want, _) = train(&folder, one, 5);
        let (plain, _) = train(&folder, Spread::one(), 5);
        assert_close("invariant beside plain", &want, &plain, DATA_PARALLEL);
        for [replicate, shard] in data_parallel() {
            for zero in 0..4 {
                let modes = [Recompute::None, Recompute::Selective, Recompute::Full];
                let recompute = modes[(replicate + shard + zero as usize) % 3];
                let spread = Spread { recompute, ..one.mesh(replicate, shard, 1, zero) };
                let (got, seen) = train(&folder, spread, 5);
                assert!(got == want, "{name} {spread:?}: {:?} and {:?}", got.losses, want.losses);
                assert_eq!(seen[0].memory.peak, seen[0].plan.peak, "{spread:?}");
            }
        }
    }
}

/// Heads of the fixtures are few, so that copies of key heads, padded vocabularies, tied tables, biases and norms
/// per head all come up.
#[test]
fn tensor_parallel_meshes_agree_with_one_rank() {
    let meshes = [
        ([1, 1, 2], 0),
        ([1, 2, 2], 3),
        ([2, 1, 2], 1),
        ([1, 1, 4], 0),
        ([2, 2, 2], 2),
        ([1, 2, 4], 3),
        ([2, 1, 4], 0),
    ];
    let mut worst = [0.0_f64; 3];
    for name in ["llama-tiny", "qwen2-window-tied", "qwen3-tiny", "llama-biases-linear"] {
        let folder = fixture(name);
        let (one, _) = train(&folder, Spread::one(), STEPS);
        for (i, ([replicate, shard, tp], zero)) in meshes.into_iter().enumerate() {
            let modes = [Recompute::None, Recompute::Selective, Recompute::Full];
            let recompute = modes[i % 3];
            let spread = Spread { recompute, ..Spread::one().mesh(replicate, shard, tp, zero) };
            let (got, seen) = train(&folder, spread, STEPS);
            let distances = assert_close(&format!("{name} {spread:?}"), &got, &one, TENSOR_PARALLEL);
            worst = std::array::from_fn(|i| worst[i].max(distances[i]));
            let (saved, at) = distance(&got.saved, &one.saved);
            assert!(saved <= 10.0 * TENSOR_PARALLEL[2], "{name} {spread:?}: saved {at} {saved:.2e}");
            for rank in seen {
                assert_eq!(rank.memory.peak, rank.plan.peak, "{name} {spread:?}");
                assert_eq!(rank.memory.high_water_bytes, rank.plan.arena_bytes, "{name} {spread:?}");
                assert_eq!(rank.traffic, rank.plan.traffic, "{name} {spread:?}");
            }
        }
    }
    let [loss, gradient, weights] = worst;
    println!("worst distances with tp: losses {loss:.1e}, gradients {gradient:.1e}, weights {weights:.1e}");
}

/// The ways to spread `ranks` over dp_replicate × dp_shard.
fn factors(ranks: usize) -> impl Iterator<Item = [usize; 2]> {
    (1..=ranks)
        .filter(move |replicate| ranks.is_multiple_of(*replicate))
        .map(move |replicate| [replicate, ranks / replicate])
}

/// A batch that `ranks` data-parallel ranks share evenly, in two micro-steps or more where eight sequences allow it.
fn shared_batch(ranks: usize) -> usize {
    if GLOBAL_BATCH.is_multiple_of(ranks) { GLOBAL_BATCH } else { ranks * GLOBAL_BATCH.div_ceil(ranks) }
}

/// By hand: `cargo test --test meshes -- --ignored --nocapture`.
#[test]
#[ignore = "takes minutes: every admissible mesh of up to 8 ranks, stage and mode of recomputation, over the fixtures"]
fn the_full_product_agrees_with_one_rank() {
    let names = [
        "llama-tiny",
        "llama-biases-linear",
        "llama3-scaled-tied",
        "mistral-window",
        "qwen2-window-tied",
        "qwen3-layer-types",
        "qwen3-tiny",
    ];
    let mut beyond = Vec::<String>::new();
    for name in names {
        let folder = fixture(name);
        let config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
        let of = |key: &str| config[key].as_u64().unwrap() as usize;
        let cuts = (1..=8).filter(|tp| {
            of("num_attention_heads").is_multiple_of(*tp) && of("intermediate_size").is_multiple_of(*tp)
        });
        // By size of the batch.
        let mut ones = BTreeMap::new();
        for tp in cuts {
            let (mut runs, mut worst) = (0, [0.0_f64; 3]);
            for data_parallel in 1..=8 / tp {
                let global_batch = shared_batch(data_parallel);
                let alone = Spread { global_batch, ..Spread::one() };
                let one = &*ones.entry(global_batch).or_insert_with(|| train(&folder, alone, STEPS).0);
                for [replicate, shard] in factors(data_parallel) {
                    for spread in stages_and_modes(alone.mesh(replicate, shard, tp, 0)) {
                        let found = audited_distances(&folder, spread, one);
                        let bounds = product_bounds(spread);
                        if !(0..3).all(|i| found[i] <= bounds[i]) {
                            beyond.push(format!("{name}, {spread:?}: {found:?}"));
                        }
                        worst = std::array::from_fn(|i| worse(worst[i], found[i]));
                        runs += 1;
                    }
                }
            }
            let [loss, gradient, weights] = worst;
            println!(
                "{name}, tp {tp}: {runs} runs; losses {loss:.1e}, gradients {gradient:.1e}, weights {weights:.1e}"
            );
        }
    }
    assert!(beyond.is_empty(), "beyond the bounds: {beyond:?}");
}

/// The bounds of a run of the full product.
fn product_bounds(spread: Spread) -> [f64; 3] {
    let mut bounds = if spread.tp == 1 { DATA_PARALLEL } else { TENSOR_PARALLEL };
    let any = if spread.global_batch == GLOBAL_BATCH { WEIGHTS_OF_ANY_MODEL } else { WEIGHTS_OF_ANY_BATCH };
    bounds[2] = bounds[2].max(any);
    bounds
}

/// A mesh with every ZeRO stage and mode of recomputation.
fn stages_and_modes(mesh: Spread) -> impl Iterator<Item = Spread> {
    let modes = [Recompute::None, Recompute::Selective, Recompute::Full];
    (0..4).flat_map(move |zero| modes.into_iter().map(move |recompute| Spread { zero, recompute, ..mesh }))
}

/// How far a run is from one rank's; its traffic and memory are those planned.
fn audited_distances(folder: &Path, spread: Spread, one: &Computed) -> [f64; 3] {
    let (got, seen) = train(folder, spread, STEPS);
    for rank in seen {
        assert_eq!(rank.traffic, rank.plan.traffic, "{spread:?}");
        assert_eq!(rank.memory.high_water_bytes, rank.plan.arena_bytes, "{spread:?}");
    }
    distances(&got, one).0
}

#[test]
fn gradients_may_travel_in_bf16() {
    let folder = fixture("llama-tiny");
    let (one, _) = train(&folder, Spread::one(), STEPS);
    for (replicate, shard, zero) in [(1, 2, 0), (2, 2, 1), (2, 2, 2), (1, 4, 3), (2, 1, 0)] {
        let spread = Spread { reduce: DType::Bf16, ..Spread::one().mesh(replicate, shard, 1, zero) };
        let (got, seen) = train(&folder, spread, STEPS);
        let (gradient, _) = distance(&got.gradients, &one.gradients);
        assert!((1e-5..8e-3).contains(&gradient), "{spread:?}: {gradient:.2e}");
        let loss = (got.losses[STEPS - 1][0] / one.losses[STEPS - 1][0] - 1.0).abs();
        assert!(loss < 2e-2, "{spread:?}: {loss:.2e}");
        assert_eq!(seen[0].memory.peak, seen[0].plan.peak, "{spread:?}");
        assert_eq!(seen[0].traffic, seen[0].plan.traffic, "{spread:?}");
    }
}
