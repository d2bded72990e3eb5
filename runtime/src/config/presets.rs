//! Published models by name. Sizes are those of the `config.json` that each model's authors published.

use crate::model_config::{Architecture, ModelConfig};

/// The names of [`preset`].
pub(super) const NAMES: &[&str] = &[
    "llama2-7b",
    "llama3-8b",
    "llama3-70b",
    "mistral-7b",
    "qwen2.5-0.5b",
    "qwen2.5-7b",
    "qwen3-0.6b",
    "qwen3-8b",
];

/// What differs between the models of one family.
struct Sizes {
    vocab: usize,
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    context: usize,
    theta: f64,
}

/// The model of that name.
///
/// Sources: Llama 2, arXiv:2307.09288; Llama 3 (not 3.1: context 8,192, no rope scaling), arXiv:2407.21783;
/// Mistral 7B v0.1 (window 4,096), arXiv:2310.06825; Qwen2.5 base models, arXiv:2412.15115; Qwen3, arXiv:2505.09388.
pub(super) fn preset(name: &str) -> Option<ModelConfig> {
    let sizes = |vocab, hidden, intermediate, layers, heads, kv_heads, head_dim, context, theta| Sizes {
        vocab,
        hidden,
        intermediate,
        layers,
        heads,
        kv_heads,
        head_dim,
        context,
        theta,
    };
    Some(match name {
        "llama2-7b" => llama(sizes(32_000, 4096, 11_008, 32, 32, 32, 128, 4096, 1e4)),
        "llama3-8b" => llama(sizes(128_256, 4096, 14_336, 32, 32, 8, 128, 8192, 5e5)),
        "llama3-70b" => llama(sizes(128_256, 8192, 28_672, 80, 64, 8, 128, 8192, 5e5)),
        "mistral-7b" => ModelConfig {
            architecture: Architecture::Mistral,
            windows: vec![Some(4096); 32],
            ..llama(sizes(32_000, 4096, 14_336, 32, 32, 8, 128, 32_768, 1e4))
        },
        "qwen2.5-0.5b" => qwen2(sizes(151_936, 896, 4864, 24, 14, 2, 64, 32_768, 1e6), true),
        "qwen2.5-7b" => qwen2(sizes(152_064, 3584, 18_944, 28, 28, 4, 128, 131_072, 1e6), false),
        "qwen3-0.6b" => qwen3(sizes(151_936, 1024, 3072, 28, 16, 8, 128, 40_960, 1e6), true),
        "qwen3-8b" => qwen3(sizes(151_936, 4096, 12_288, 36, 32, 8, 128, 40_960, 1e6), false),
        _ => return None,
    })
}

fn llama(sizes: Sizes) -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Llama,
        vocab_size: sizes.vocab,
        hidden_size: sizes.hidden,
        intermediate_size: sizes.intermediate,
        num_layers: sizes.layers,
        num_heads: sizes.heads,
        num_kv_heads: sizes.kv_heads,
        head_dim: sizes.head_dim,
        rope_theta: sizes.theta,
        max_position_embeddings: sizes.context,
        windows: vec![None; sizes.layers],
        ..ModelConfig::default()
    }
}

fn qwen2(sizes: Sizes, tie_embeddings: bool) -> ModelConfig {
    let architecture = Architecture::Qwen2;
    ModelConfig { architecture, norm_eps: 1e-6, qkv_bias: true, tie_embeddings, ..llama(sizes) }
}

fn qwen3(sizes: Sizes, tie_embeddings: bool) -> ModelConfig {
    let architecture = Architecture::Qwen3;
    ModelConfig { architecture, norm_eps: 1e-6, qk_norm: true, tie_embeddings, ..llama(sizes) }
}

#[cfg(test)]
mod tests {
    use super::super::model_check::check;
    use super::*;

    /// Parameters: embedding and head, and per block the projections, norms and biases.
    fn parameters(model: &ModelConfig) -> usize {
        let (q, kv) = (model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim);
        let attention = model.hidden_size * (2 * q + 2 * kv) + if model.qkv_bias { q + 2 * kv } else { 0 };
        let norms = 2 * model.hidden_size + if model.qk_norm { 2 * model.head_dim } else { 0 };
        let block = attention + norms + 3 * model.hidden_size * model.intermediate_size;
        let tables = if model.tie_embeddings { 1 } else { 2 };
        model.num_layers * block + tables * model.vocab_size * model.hidden_size + model.hidden_size
    }

    #[test]
    fn presets_are_valid_and_have_the_published_number_of_parameters() {
        let published = [
            6_738_415_616,
            8_030_261_248,
            70_553_706_496,
            7_241_732_096,
            494_032_768,
            7_615_616_512,
            596_049_920,
            8_190_735_360,
        ];
        for (name, published) in NAMES.iter().zip(published) {
            let model = preset(name).unwrap();
            assert_eq!(check(&model, |key| key), Ok(()), "{name}");
            assert_eq!(parameters(&model), published, "{name}");
        }
        assert_eq!(preset("llama4"), None);
    }
}
