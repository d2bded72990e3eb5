//! The reference model: small enough for two cores, its layers in the proportions of larger models.
//! `benches/peers/torch_step.py` is the same model in PyTorch.

/// Rows of the embedding and of the head, which are not tied.
pub(crate) const VOCAB: usize = 4096;
/// Width of the residual stream.
pub(crate) const HIDDEN: usize = 384;
/// Width inside the feed-forward layer.
pub(crate) const INTERMEDIATE: usize = 1024;
/// Query heads.
pub(crate) const HEADS: usize = 6;
/// Key and value heads.
pub(crate) const KV_HEADS: usize = 2;
/// Width of a head.
pub(crate) const HEAD_DIM: usize = HIDDEN / HEADS;
/// Tokens of a sequence.
pub(crate) const SEQ: usize = 256;
/// Sequences of a micro-batch.
pub(crate) const BATCH: usize = 8;
/// Tokens of a micro-batch.
pub(crate) const TOKENS: usize = BATCH * SEQ;
