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
use crate::parallel::tensor::TpRank;
use crate::params::{Cut, Group, ParamId, UnitLayout};

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
    /// Which part of every matrix is here.
    pub tp: TpRank,
}

impl Transformer {
    /// Unit of the embedding.
    pub const EMBEDDING_UNIT: usize = 0;

    /// Lays the whole model out on one rank.
    pub fn new(config: ModelConfig) -> Self {
        Self::sharded(config, TpRank::ALONE)
    }

    /// Lays out what a rank along `tp` has of the model. The vocabulary is padded to a multiple of the ranks.
    pub fn sharded(config: ModelConfig, tp: TpRank) -> Self {
        let mut root = UnitLayout::new(if config.tie_embeddings { "root" } else { "embedding" });
        let (vocab_size, hidden_size, std) = (config.vocab_size, config.hidden_size, config.init.std);
        let (shape, cut) = ([vocab_size, hidden_size], rows(tp, vocab_size));
        let table = root.matrix(Group::Matrices, "model.embed_tokens.weight", shape, cut, std);
        let local_rows = vocab_size.div_ceil(tp.size);
        let embedding = Embedding { table, hidden_size, first_row: tp.rank * local_rows };

        let (block_units, blocks): (Vec<_>, Vec<_>) =
            (0..config.num_layers).map(|layer| BlockBuilder::build(&config, tp, layer)).unzip();

        let mut head_unit = UnitLayout::new("head");
        let unit = if config.tie_embeddings { &mut root } else { &mut head_unit };
        let norm = norm(unit, &config, "model.norm.weight".to_owned(), hidden_size);
        let projection = if config.tie_embeddings {
            table
        } else {
            unit.matrix(Group::Matrices, "lm_head.weight", shape, cut, std)
        };
        let head = Head { norm, projection, vocab_size, local_rows };

        let mut units = vec![root];
        units.extend(block_units);
        if !config.tie_embeddings {
            units.push(head_unit);
        }
        Transformer { config, units, embedding, blocks, head, tp }
    }

    /// Unit of a block.
    pub fn block_unit(block: usize) -> usize {
        1 + block
    }

    /// Unit of the head: the root when tied.
    pub fn head_unit(&self) -> usize {
        if self.config.tie_embeddings { Self::EMBEDDING_UNIT } else { self.units.len() - 1 }
    }

    /// Number of parameters of the whole model.
    pub fn num_parameters(&self) -> usize {
        self.units.iter().flat_map(UnitLayout::params).map(|param| param.global_len()).sum()
    }

    /// Parameters of the input embedding when they take part in no product: excluded from 6·N.
    pub fn num_lookup_parameters(&self) -> usize {
        if self.config.tie_embeddings { 0 } else { self.config.vocab_size * self.config.hidden_size }
    }
}

fn norm(unit: &mut UnitLayout, config: &ModelConfig, name: String, width: usize) -> Norm {
    Norm {
        weight: unit.vector(Group::Vectors, name, width, Cut::Whole, 1.0),
        width,
        eps: config.norm_eps as f32,
    }
}

/// This rank's part of `count` rows.
fn rows(tp: TpRank, count: usize) -> Cut {
    let here = count.div_ceil(tp.size);
    if tp.size == 1 { Cut::Whole } else { Cut::Rows { first: tp.rank * here, rows: here } }
}

/// Collects the parameters of one block.
struct BlockBuilder<'a> {
    config: &'a ModelConfig,
    tp: TpRank,
    prefix: String,
    unit: UnitLayout,
}

/// Name, global extents and bias of a projection.
struct Projection<'a> {
    name: &'a str,
    out_features: usize,
    in_features: usize,
    bias: bool,
    std: f64,
}

impl<'a> BlockBuilder<'a> {
    fn build(config: &'a ModelConfig, tp: TpRank, layer: usize) -> (UnitLayout, Block) {
        let unit = UnitLayout::new(format!("block {layer}"));
        let mut builder = BlockBuilder { config, tp, prefix: format!("model.layers.{layer}"), unit };
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

    /// A projection of which this rank computes `cut` of the outputs.
    fn by_rows(&mut self, projection: &Projection<'_>, cut: Cut, groups: [Group; 2]) -> Linear {
        let &Projection { name, out_features, in_features, bias, std } = projection;
        let name = format!("{}.{name}", self.prefix);
        let shape = [out_features, in_features];
        let weight = self.unit.matrix(groups[0], format!("{name}.weight"), shape, cut, std);
        let bias = bias.then(|| self.unit.vector(groups[1], format!("{name}.bias"), out_features, cut, 0.0));
        let here = if let Cut::Rows { rows, .. } = cut { rows } else { out_features };
        Linear { weight, bias, in_features, out_features: here, adds_bias: true }
    }

    /// A projection of which this rank has `1 / tp` of the inputs, and computes a term of every output.
    fn by_columns(&mut self, projection: &Projection<'_>) -> Linear {
        let &Projection { name, out_features, in_features, bias, std } = projection;
        let name = format!("{}.{name}", self.prefix);
        let TpRank { size, rank } = self.tp;
        let here = in_features / size;
        let cut = if size == 1 { Cut::Whole } else { Cut::Columns { first: rank * here, columns: here } };
        let shape = [out_features, in_features];
        let weight = self.unit.matrix(Group::Matrices, format!("{name}.weight"), shape, cut, std);
        let add_bias = |unit: &mut UnitLayout| {
            unit.vector(Group::Vectors, format!("{name}.bias"), out_features, Cut::Whole, 0.0)
        };
        let bias = bias.then(|| add_bias(&mut self.unit));
        // The terms are summed, so one of them carries the bias.
        Linear { weight, bias, in_features: here, out_features, adds_bias: rank == 0 }
    }

    /// The next linear layer's parameters follow this one's without a gap.
    fn adjacent(&mut self, linear: &Linear) {
        self.unit.adjacent(linear.weight);
        if let Some(bias) = linear.bias {
            self.unit.adjacent(bias);
        }
    }

    fn attention(&mut self, window: Option<usize>) -> Attention {
        let (config, tp) = (self.config, self.tp);
        let (hidden, std, bias) = (config.hidden_size, config.init.std, config.qkv_bias);
        let query_width = config.num_heads * config.head_dim;
        let key_width = config.num_kv_heads * config.head_dim;
        let cut_groups = [Group::Matrices, Group::Biases];
        let projection =
            |name, out_features| Projection { name, out_features, in_features: hidden, bias, std };
        let query =
            self.by_rows(&projection("self_attn.q_proj", query_width), rows(tp, query_width), cut_groups);
        // With more ranks than key heads, neighbours have the same one.
        let copies = tp.copies(config.num_kv_heads);
        let (key_cut, key_groups) = match copies {
            1 => (rows(tp, key_width), cut_groups),
            copies => {
                let first = tp.rank / copies * config.head_dim;
                (Cut::Rows { first, rows: config.head_dim }, [Group::Copies, Group::Copies])
            }
        };
        if copies == 1 {
            self.adjacent(&query);
        }
        let key = self.by_rows(&projection("self_attn.k_proj", key_width), key_cut, key_groups);
        if copies == 1 {
            self.adjacent(&key);
        }
        let value = self.by_rows(&projection("self_attn.v_proj", key_width), key_cut, key_groups);
        let output = self.by_columns(&Projection {
            name: "self_attn.o_proj",
            out_features: hidden,
            in_features: query_width,
            bias: config.output_bias,
            std: self.residual_std(),
        });
        let head_norms = config.qk_norm.then(|| {
            (self.norm("self_attn.q_norm", config.head_dim), self.norm("self_attn.k_norm", config.head_dim))
        });
        let shape = AttentionShape {
            num_heads: config.num_heads / tp.size,
            num_kv_heads: (config.num_kv_heads / tp.size).max(1),
            head_dim: config.head_dim,
            window,
            longest: usize::MAX,
        };
        Attention { query, key, value, output, head_norms, shape }
    }

    fn mlp(&mut self) -> Mlp {
        let config = self.config;
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let (bias, std) = (config.mlp_bias, config.init.std);
        let projection =
            |name| Projection { name, out_features: intermediate, in_features: hidden, bias, std };
        let (cut, groups) = (rows(self.tp, intermediate), [Group::Matrices, Group::Biases]);
        let gate = self.by_rows(&projection("mlp.gate_proj"), cut, groups);
        self.adjacent(&gate);
        let up = self.by_rows(&projection("mlp.up_proj"), cut, groups);
        let down = self.by_columns(&Projection {
            name: "mlp.down_proj",
            out_features: hidden,
            in_features: intermediate,
            bias,
            std: self.residual_std(),
        });
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
    let out_features = first.out_features + second.out_features;
    Linear { weight, bias, out_features, ..first }
}
