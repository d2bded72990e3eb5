//! What a model is: the validated description from which parameters, layers and `config.json` follow.

pub use tisserand_kernels::ops::rope::RopeScaling;

/// The family that names the checkpoint's `model_type`. Options below say what is computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Architecture {
    /// Llama 2 and 3.
    Llama,
    /// Mistral.
    Mistral,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Qwen 3.
    Qwen3,
}

/// How matrices are initialised: normal with this standard deviation, truncated nowhere.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Init {
    /// Standard deviation.
    pub std: f64,
    /// Whether projections into the residual stream (`o_proj`, `down_proj`) are divided by
    /// `sqrt(2 · num_layers)`.
    pub depth_scaled: bool,
}

/// A decoder-only transformer with RMS norms, rotary attention and SwiGLU.
#[derive(Clone, PartialEq, Debug)]
pub struct ModelConfig {
    /// Family.
    pub architecture: Architecture,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Epsilon of every RMS norm.
    pub norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Change of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// Longest context that the model declares; written to `config.json`, not enforced.
    pub max_position_embeddings: usize,
    /// Per layer: how many tokens back attention sees, itself included; `None` for all. `num_layers` long.
    pub windows: Vec<Option<usize>>,
    /// Bias of the query, key and value projections.
    pub qkv_bias: bool,
    /// Bias of the attention output projection.
    pub output_bias: bool,
    /// Biases of the feed-forward layer.
    pub mlp_bias: bool,
    /// RMS norm of each query and key head before the rotation (Qwen 3).
    pub qk_norm: bool,
    /// Whether the output projection is the embedding.
    pub tie_embeddings: bool,
    /// Initialisation.
    pub init: Init,
}

/// No sizes yet, every option off: what a new option is in all models that do not name it.
impl Default for ModelConfig {
    fn default() -> Self {
        ModelConfig {
            architecture: Architecture::Llama,
            vocab_size: 0,
            hidden_size: 0,
            intermediate_size: 0,
            num_layers: 0,
            num_heads: 0,
            num_kv_heads: 0,
            head_dim: 0,
            norm_eps: 1e-5,
            rope_theta: 1e4,
            rope_scaling: RopeScaling::None,
            max_position_embeddings: 0,
            windows: Vec::new(),
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            qk_norm: false,
            tie_embeddings: false,
            init: Init { std: 0.02, depth_scaled: true },
        }
    }
}
