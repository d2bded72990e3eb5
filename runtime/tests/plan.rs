//! The layout of parameters, and the plan of a large model.

use std::time::{Duration, Instant};

use tisserand_collectives::Workspace;
use tisserand_kernels::ops::cross_entropy::CrossEntropyParams;
use tisserand_kernels::{Class, Cpu, DType};
use tisserand_runtime::config::Optimizer;
use tisserand_runtime::model::Transformer;
use tisserand_runtime::model::block::Recompute;
use tisserand_runtime::model_config::ModelConfig;
use tisserand_runtime::parallel::Sharding;
use tisserand_runtime::params::ALIGNMENT;
use tisserand_runtime::plan::{self, ModelFlops};
use tisserand_runtime::step::{StateDTypes, StepConfig};

/// Llama 3 8B with fewer layers or tied, if wanted.
fn llama3(num_layers: usize, tie_embeddings: bool) -> ModelConfig {
    ModelConfig {
        vocab_size: 128_256,
        hidden_size: 4096,
        intermediate_size: 14_336,
        num_layers,
        num_heads: 32,
        num_kv_heads: 8,
        head_dim: 128,
        rope_theta: 5e5,
        max_position_embeddings: 8192,
        windows: vec![None; num_layers],
        tie_embeddings,
        ..ModelConfig::default()
    }
}

#[test]
fn parameters_are_in_order_without_overlap_and_aligned_unless_joined() {
    let model = Transformer::new(ModelConfig { qk_norm: true, mlp_bias: true, ..llama3(2, false) });
    for group in model.units.iter().flat_map(|unit| &unit.groups) {
        let mut end = 0;
        for param in &group.params {
            assert!(param.offset >= end, "{} overlaps", param.name);
            assert!(param.offset % ALIGNMENT == 0 || param.offset == end, "{} is not aligned", param.name);
            end = param.offset + param.len();
        }
        assert!(end <= group.padded_len(1) && group.padded_len(1) % 1024 == 0);
    }
    let mut names: Vec<&str> =
        model.units.iter().flat_map(|unit| unit.params()).map(|p| p.name.as_str()).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "names are unique");
}

#[test]
fn model_flops_follow_the_published_formula() {
    let model = Transformer::new(llama3(32, false));
    let flops = ModelFlops::new(&model, 8192);
    let products = 6.0 * (8_030_261_248.0 - 128_256.0 * 4096.0);
    assert_eq!(flops.full, products + 12.0 * 32.0 * 4096.0 * 8192.0);
    assert_eq!(flops.causal, products + 6.0 * 32.0 * 4096.0 * 8192.0);
    let tied = Transformer::new(llama3(32, true));
    assert_eq!(ModelFlops::new(&tied, 1).full, 6.0 * tied.num_parameters() as f64 + 12.0 * 32.0 * 4096.0);
}

#[test]
fn an_8b_model_is_planned_in_two_seconds() {
    let start = Instant::now();
    let model = Transformer::new(llama3(32, false));
    let (tokens, micro_steps) = (8192, 2);
    let config = StepConfig {
        tokens,
        micro_steps,
        positions: 8192,
        dtypes: StateDTypes { compute: DType::Bf16, master: DType::F32, moments: DType::F32 },
        reduce: DType::F32,
        recompute: vec![Recompute::Selective; 32],
        cross_entropy: CrossEntropyParams { z_loss: 0.0 },
        optimizer: Optimizer {
            lr: 3e-4,
            betas: [0.9, 0.95],
            grad_clip: Some(1.0),
            eps: 1e-8,
            weight_decay: 0.1,
            groups: Vec::new(),
        },
        sharding: Sharding::single(),
        cuda_graph: false,
    };
    let plan = plan::train(Cpu::CAPS, &model, &config, 8192, Workspace::None).unwrap();
    let elapsed = start.elapsed();
    println!("planned in {elapsed:?}: {} bytes", plan.arena_bytes);
    assert!(elapsed < Duration::from_secs(2), "{elapsed:?}");

    assert_eq!(plan.num_parameters, 8_030_261_248);
    // Every tensor of this model fills whole chunks but for the last of a group: padding is below 0.01 %.
    let about = |bytes: usize, per_parameter: usize| {
        let least = per_parameter * plan.num_parameters;
        assert!(
            bytes >= least && bytes - least < least / 10_000,
            "{bytes} for {per_parameter} per parameter"
        );
    };
    about(plan.peak.of(Class::Weights), 2);
    about(plan.peak.of(Class::Gradients), 4);
    about(plan.peak.of(Class::Master), 4);
    about(plan.peak.of(Class::Moments), 8);
    // 32 blocks of the bytes per token that docs/memory.md states, and one block made whole again.
    let activations = plan.peak.of(Class::Activations) / tokens;
    assert!((31 * 94_344..34 * 139_400).contains(&activations), "{activations} bytes per token");
    // Products alone, three of them, each with every matrix but the embedding's table.
    let products = 6 * (plan.num_parameters - 128_256 * 4096) * tokens * micro_steps;
    let ratio = plan.step_flops() as f64 / products as f64;
    assert!((1.0..1.6).contains(&ratio), "{ratio} of the products");
}
