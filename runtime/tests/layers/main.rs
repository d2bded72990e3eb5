//! Every layer of the model through the generic check, and the names of all parameters.

mod check;
mod kinds;
mod memory_page;

use std::path::Path;

use check::{Subject, check};
use kinds::{AttentionLayer, BlockLayer, EmbeddingLayer, Extra, HeadLayer, LinearLayer, MlpLayer, NormLayer};
use safetensors::SafeTensors;
use tisserand_kernels::DType;
use tisserand_runtime::hf_config;
use tisserand_runtime::model::Transformer;
use tisserand_runtime::model::block::Recompute;
use tisserand_runtime::model_config::ModelConfig;

/// One block, sizes off every tile.
fn config() -> ModelConfig {
    ModelConfig {
        vocab_size: 19,
        hidden_size: 20,
        intermediate_size: 27,
        num_layers: 1,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 6,
        rope_theta: 100.0,
        max_position_embeddings: 64,
        windows: vec![None],
        ..ModelConfig::default()
    }
}

/// Every option of a block on.
fn all_options() -> ModelConfig {
    let (qkv_bias, output_bias, mlp_bias, qk_norm) = (true, true, true, true);
    ModelConfig { qkv_bias, output_bias, mlp_bias, qk_norm, windows: vec![Some(5)], ..config() }
}

/// Each option alone, none, and all.
fn variants() -> Vec<(&'static str, ModelConfig)> {
    vec![
        ("grouped queries", config()),
        ("one key head per query head", ModelConfig { num_kv_heads: 4, ..config() }),
        ("one key head", ModelConfig { num_kv_heads: 1, ..config() }),
        ("window", ModelConfig { windows: vec![Some(3)], ..config() }),
        ("q/k norms", ModelConfig { qk_norm: true, ..config() }),
        ("q, k, v biases", ModelConfig { qkv_bias: true, ..config() }),
        ("all options", all_options()),
    ]
}

const BLOCK: usize = 1;
const HEAD: usize = 2;

fn subject<L>(name: impl Into<String>, model: &Transformer, unit: usize, layer: L) -> Subject<'_, L> {
    Subject { name: name.into(), config: &model.config, unit: &model.units[unit], layer }
}

#[test]
fn norm() {
    let model = Transformer::new(config());
    let layer = NormLayer(model.blocks[0].mlp_norm, "post_attention_layernorm.weight");
    check(&subject("norm", &model, BLOCK, layer));
}

#[test]
fn linear_with_and_without_bias() {
    let model = Transformer::new(all_options());
    let names = vec!["q_proj.weight", "q_proj.bias"];
    check(&subject("linear", &model, BLOCK, LinearLayer(model.blocks[0].attention.query, names)));
    let model = Transformer::new(config());
    let layer = LinearLayer(model.blocks[0].mlp.down, vec!["down_proj.weight"]);
    check(&subject("linear without bias", &model, BLOCK, layer));
}

#[test]
fn attention_with_every_option() {
    for (name, config) in variants() {
        let model = Transformer::new(config);
        let layer = AttentionLayer(model.blocks[0].attention);
        check(&subject(format!("attention, {name}"), &model, BLOCK, layer));
    }
}

#[test]
fn mlp_with_and_without_biases() {
    for config in [config(), all_options()] {
        let model = Transformer::new(config);
        check(&subject("mlp", &model, BLOCK, MlpLayer(model.blocks[0].mlp)));
    }
}

#[test]
fn block_in_every_recompute_mode() {
    for (name, config) in variants() {
        let model = Transformer::new(config);
        for recompute in [Recompute::None, Recompute::Selective, Recompute::Full] {
            let layer = BlockLayer { block: model.blocks[0], recompute, extra: Extra::default() };
            check(&subject(format!("block, {name}, recompute {recompute:?}"), &model, BLOCK, layer));
        }
    }
}

#[test]
fn embedding() {
    let model = Transformer::new(config());
    check(&subject("embedding", &model, Transformer::EMBEDDING_UNIT, EmbeddingLayer(model.embedding)));
}

#[test]
fn head() {
    let model = Transformer::new(config());
    check(&subject("head", &model, HEAD, HeadLayer(model.head)));
}

/// The examples of docs/memory.md follow from its table of tensors, which the checks above hold.
#[test]
fn the_memory_page_adds_up() {
    let llama = ModelConfig {
        hidden_size: 4096,
        intermediate_size: 14_336,
        num_heads: 32,
        num_kv_heads: 8,
        head_dim: 128,
        ..config()
    };
    let qwen = ModelConfig {
        hidden_size: 1024,
        intermediate_size: 3072,
        num_heads: 16,
        num_kv_heads: 8,
        head_dim: 128,
        qk_norm: true,
        ..config()
    };
    let modes = [Recompute::None, Recompute::Selective, Recompute::Full];
    let mut want = Vec::new();
    for (name, config) in [("Llama 3 8B", llama), ("Qwen3 0.6B", qwen)] {
        let intermediate_size = config.intermediate_size;
        let attention = Transformer::new(config).blocks[0].attention;
        for dtype in [DType::F32, DType::Bf16] {
            let bytes =
                modes.map(|mode| memory_page::saved_bytes("", mode, dtype, &attention, intermediate_size));
            let cells = [name.to_owned(), dtype.to_string()].into_iter();
            want.push(cells.chain(bytes.map(|bytes| bytes.to_string())).collect::<Vec<_>>());
        }
    }
    assert_eq!(memory_page::rows(5), want);
}

/// Names and shapes are those of Hugging Face checkpoints.
#[test]
fn parameters_have_the_names_and_shapes_of_checkpoints() {
    for fixture in ["llama-tiny", "qwen3-tiny"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(fixture);
        let file = std::fs::read(folder.join("model.safetensors")).unwrap();
        let (_, header) = SafeTensors::read_metadata(&file).unwrap();
        let mut want: Vec<_> =
            header.tensors().into_iter().map(|(name, info)| (name, info.shape.clone())).collect();
        let model = Transformer::new(hf_config::read(&folder.join("config.json")).unwrap());
        let params = model.units.iter().flat_map(|unit| unit.params());
        let mut got: Vec<_> = params.map(|param| (param.name.clone(), param.shape.clone())).collect();
        want.sort();
        got.sort();
        assert_eq!(got, want, "{fixture}");
    }
}
