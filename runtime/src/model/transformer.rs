//! Which units a model has, which parameters they own and which layers read them.

use tisserand_kernels::ops::attention::AttentionShape;

use super::attention::Attention;
use super::block::Block;
use super::embedding::Embedding;
use super::head::Head;
use super::linear::Linear;
use super::mlp::Mlp;
use super::norm::Norm;
use crate::model_config::ModelConfig;
use crate::params::{ParamId, UnitLayout};

/// A model: layers and the layout of their parameters. Stateless; weights are passed to each call.
#[derive(Clone, PartialEq, Debug)]
pub struct Transformer {
    /// Description.
    pub config: ModelConfig,
    /// Units in the order of the forward pass: embedding (or root), blocks, head (absent when tied).
    pub units: Vec<UnitLayout>,
    /// Embedding; its parameters are in unit 0.
    pub embedding: Embedding,
    /// Blocks; the parameters of block i are in unit 1 + i.
    pub blocks: Vec<Block>,
    /// Head; its parameters are in [`Transformer::head_unit`].
    pub head: Head,
}

impl Transformer {
    /// Unit of the embedding.
    pub const EMBEDDING_UNIT: usize = 0;

    /// Lays the model out.
    pub fn new(config: ModelConfig) -> Self {
        let mut root = UnitLayout::new(if config.tie_embeddings { "root" } else { "embedding" });
        let (vocab_size, hidden_size, std) = (config.vocab_size, config.hidden_size, config.init.std);
        let table = root.matrix("model.embed_tokens.weight", vocab_size, hidden_size, std);
        let embedding = Embedding { table, hidden_size };

        let (block_units, blocks): (Vec<_>, Vec<_>) =
            (0..config.num_layers).map(|layer| BlockBuilder::build(&config, layer)).unzip();

        let mut head_unit = UnitLayout::new("head");
        let unit = if config.tie_embeddings { &mut root } else { &mut head_unit };
        let norm = norm(unit, &config, "model.norm.weight".to_owned(), hidden_size);
        let projection = if config.tie_embeddings {
            table
        } else {
            unit.matrix("lm_head.weight", vocab_size, hidden_size, std)
        };
        let head = Head { norm, projection, vocab_size };

        let mut units = vec![root];
        units.extend(block_units);
        if !config.tie_embeddings {
            units.push(head_unit);
        }
        Transformer { config, units, embedding, blocks, head }
    }

    /// Unit of a block.
    pub fn block_unit(block: usize) -> usize {
        1 + block
    }

    /// Unit of the head: the root when tied.
    pub fn head_unit(&self) -> usize {
        if self.config.tie_embeddings { Self::EMBEDDING_UNIT } else { self.units.len() - 1 }
    }

    /// Number of parameters, without padding.
    pub fn num_parameters(&self) -> usize {
        self.units.iter().flat_map(UnitLayout::params).map(|param| param.len()).sum()
    }

    /// Parameters of the input embedding when they take part in no product: excluded from 6·N.
    pub fn num_lookup_parameters(&self) -> usize {
        if self.config.tie_embeddings { 0 } else { self.config.vocab_size * self.config.hidden_size }
    }
}

fn norm(unit: &mut UnitLayout, config: &ModelConfig, name: String, width: usize) -> Norm {
    Norm { weight: unit.vector(name, width, 1.0), width, eps: config.norm_eps as f32 }
}

/// Collects the parameters of one block.
struct BlockBuilder<'a> {
    config: &'a ModelConfig,
    prefix: String,
    unit: UnitLayout,
}

impl<'a> BlockBuilder<'a> {
    fn build(config: &'a ModelConfig, layer: usize) -> (UnitLayout, Block) {
        let unit = UnitLayout::new(format!("block {layer}"));
        let mut builder = BlockBuilder { config, prefix: format!("model.layers.{layer}"), unit };
        let hidden_size = config.hidden_size;
        let attention_norm = builder.norm("input_layernorm", hidden_size);
        let attention = builder.attention(config.windows[layer]);
        let mlp_norm = builder.norm("post_attention_layernorm", hidden_size);
        let mlp = builder.mlp();
        (builder.unit, Block { attention_norm, attention, mlp_norm, mlp })
    }

    fn norm(&mut self, name: &str, width: usize) -> Norm {
        let name = format!("{}.{name}.weight", self.prefix);
        norm(&mut self.unit, self.config, name, width)
    }

    /// Standard deviation of the projections into the residual stream.
    fn residual_std(&self) -> f64 {
        let init = self.config.init;
        if init.depth_scaled { init.std / (2.0 * self.config.num_layers as f64).sqrt() } else { init.std }
    }

    fn linear(
        &mut self,
        name: &str,
        out_features: usize,
        in_features: usize,
        bias: bool,
        std: f64,
    ) -> Linear {
        let weight =
            self.unit.matrix(format!("{}.{name}.weight", self.prefix), out_features, in_features, std);
        let bias = bias.then(|| self.unit.vector(format!("{}.{name}.bias", self.prefix), out_features, 0.0));
        Linear { weight, bias, in_features, out_features }
    }

    /// The next linear layer's parameters follow this one's without a gap.
    fn adjacent(&mut self, linear: &Linear) {
        self.unit.adjacent(linear.weight);
        if let Some(bias) = linear.bias {
            self.unit.adjacent(bias);
        }
    }

    fn attention(&mut self, window: Option<usize>) -> Attention {
        let config = self.config;
        let (hidden, std, bias) = (config.hidden_size, config.init.std, config.qkv_bias);
        let query_width = config.num_heads * config.head_dim;
        let key_width = config.num_kv_heads * config.head_dim;
        let query = self.linear("self_attn.q_proj", query_width, hidden, bias, std);
        self.adjacent(&query);
        let key = self.linear("self_attn.k_proj", key_width, hidden, bias, std);
        self.adjacent(&key);
        let value = self.linear("self_attn.v_proj", key_width, hidden, bias, std);
        let residual_std = self.residual_std();
        let output = self.linear("self_attn.o_proj", hidden, query_width, config.output_bias, residual_std);
        let head_norms = config.qk_norm.then(|| {
            (self.norm("self_attn.q_norm", config.head_dim), self.norm("self_attn.k_norm", config.head_dim))
        });
        let shape = AttentionShape {
            num_heads: config.num_heads,
            num_kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
            window,
            longest: usize::MAX,
        };
        Attention { query, key, value, output, head_norms, shape }
    }

    fn mlp(&mut self) -> Mlp {
        let config = self.config;
        let (hidden, intermediate, bias) = (config.hidden_size, config.intermediate_size, config.mlp_bias);
        let gate = self.linear("mlp.gate_proj", intermediate, hidden, bias, config.init.std);
        self.adjacent(&gate);
        let up = self.linear("mlp.up_proj", intermediate, hidden, bias, config.init.std);
        let residual_std = self.residual_std();
        let down = self.linear("mlp.down_proj", hidden, intermediate, bias, residual_std);
        Mlp { gate_up: joined(gate, up), down }
    }
}

/// Two projections of one input as one.
fn joined(first: Linear, second: Linear) -> Linear {
    let bias = match (first.bias, second.bias) {
        (Some(first), Some(second)) => Some(UnitLayout::joined(first, second)),
        _ => None,
    };
    let weight: ParamId = UnitLayout::joined(first.weight, second.weight);
    Linear {
        weight,
        bias,
        in_features: first.in_features,
        out_features: first.out_features + second.out_features,
    }
}
