//! Causal grouped-query attention with rotary positions: projections, optional norm per head, rotation,
//! attention, output projection. It takes all tokens; with tensor parallelism a rank has a part of the heads, and
//! its output, like the gradient of its input, is a term of the sum over ranks.

use tisserand_kernels::ops::attention::{self, AttentionShape};
use tisserand_kernels::ops::{Write, rope};
use tisserand_kernels::{Block, Class, Context, DType, Device, Storage, TensorRef};

use super::Pass;
use super::linear::Linear;
use super::norm::{Norm, NormSaved};
use crate::error::Result;
use crate::params::{UnitGradients, UnitWeights};

/// The attention layer of one block.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Attention {
    /// Query projection.
    pub query: Linear,
    /// Key projection.
    pub key: Linear,
    /// Value projection.
    pub value: Linear,
    /// Projection back into the residual stream.
    pub output: Linear,
    /// Norms of each query and key head, before the rotation.
    pub head_norms: Option<(Norm, Norm)>,
    /// Heads and window.
    pub shape: AttentionShape,
}

/// What backward needs besides the layer's input.
pub struct AttentionSaved<D: Storage> {
    /// Queries after norm and rotation [tokens, num_heads, head_dim].
    query: Block<D>,
    /// Keys after norm and rotation [tokens, num_kv_heads, head_dim].
    key: Block<D>,
    /// Values [tokens, num_kv_heads, head_dim].
    value: Block<D>,
    /// With head norms: queries and keys before them, and the norms' statistics.
    before_norms: Option<[(Block<D>, NormSaved<D>); 2]>,
    /// Attention before the output projection [tokens, num_heads, head_dim].
    mixed: Block<D>,
    /// Per head and token [num_heads, tokens] f32.
    logsumexp: Block<D>,
}

/// Keys and values of the tokens generated so far, for one layer.
pub struct KvCache<D: Storage> {
    key: Block<D>,
    value: Block<D>,
    len: usize,
}

impl<D: Device> KvCache<D> {
    /// Room for `capacity` tokens.
    pub fn new(ctx: &Context<D>, attention: &Attention, dtype: DType, capacity: usize) -> Result<Self> {
        let len = capacity * attention.key.out_features;
        let block = || ctx.arena.block(Class::KvCache, dtype, len);
        Ok(KvCache { key: block()?, value: block()?, len: 0 })
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no token yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets every token from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    fn append(&mut self, ctx: &Context<D>, width: usize, key: &Block<D>, value: &Block<D>) -> Result<()> {
        let start = self.len * width;
        ctx.device.copy(key.view([key.len()]), self.key.range_mut(start, [key.len()]))?;
        ctx.device.copy(value.view([value.len()]), self.value.range_mut(start, [value.len()]))?;
        self.len += key.len() / width;
        Ok(())
    }
}

impl Attention {
    fn query_extents(&self, tokens: usize) -> [usize; 3] {
        [tokens, self.shape.num_heads, self.shape.head_dim]
    }

    fn key_extents(&self, tokens: usize) -> [usize; 3] {
        [tokens, self.shape.num_kv_heads, self.shape.head_dim]
    }

    /// The shape for a pass, whose documents are no longer than its rotary tables.
    fn shape_in<D: Device>(&self, pass: &Pass<'_, D>) -> AttentionShape {
        AttentionShape { longest: pass.rope_table().shape().dims()[0], ..self.shape }
    }

    /// Everything before the output projection, given the normalised stream `x` [tokens, hidden].
    pub fn mix<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        x: TensorRef<'_, D>,
    ) -> Result<AttentionSaved<D>> {
        let tokens = pass.tokens();
        let (query, key, value, before_norms) = self.project(pass, weights, x)?;
        let (mut mixed, mut logsumexp) =
            (pass.activations(self.query.out_features)?, pass.statistics(self.shape.num_heads * tokens)?);
        attention::forward(
            pass.ctx,
            self.shape_in(pass),
            query.view(self.query_extents(tokens)),
            key.view(self.key_extents(tokens)),
            value.view(self.key_extents(tokens)),
            pass.cu_seqlens(),
            pass.cu_seqlens(),
            mixed.view_mut(self.query_extents(tokens)),
            logsumexp.view_mut([self.shape.num_heads, tokens]),
        )?;
        Ok(AttentionSaved { query, key, value, before_norms, mixed, logsumexp })
    }

    /// The output projection [tokens, hidden]: this rank's term.
    pub fn output<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        saved: &AttentionSaved<D>,
    ) -> Result<Block<D>> {
        self.output.forward(pass, weights, saved.mixed.view([pass.tokens(), self.output.in_features]))
    }

    /// Attention of the pass's tokens to themselves and to all in `cache`, which takes them up. The pass
    /// holds one sequence; `bounds` are the cu_seqlens of queries and of keys.
    pub fn forward_cached<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        x: TensorRef<'_, D>,
        cache: &mut KvCache<D>,
        bounds: [TensorRef<'_, D>; 2],
    ) -> Result<Block<D>> {
        let tokens = pass.tokens();
        let (query, key, value, _) = self.project(pass, weights, x)?;
        cache.append(pass.ctx, self.key.out_features, &key, &value)?;
        let (mut mixed, mut logsumexp) =
            (pass.activations(self.query.out_features)?, pass.statistics(self.shape.num_heads * tokens)?);
        attention::forward(
            pass.ctx,
            self.shape_in(pass),
            query.view(self.query_extents(tokens)),
            cache.key.range(0, self.key_extents(cache.len)),
            cache.value.range(0, self.key_extents(cache.len)),
            bounds[0],
            bounds[1],
            mixed.view_mut(self.query_extents(tokens)),
            logsumexp.view_mut([self.shape.num_heads, tokens]),
        )?;
        self.output.forward(pass, weights, mixed.view([tokens, self.output.in_features]))
    }

    /// Queries, keys and values, normalised and rotated, and what the norms' backward needs.
    #[allow(clippy::type_complexity, reason = "three projections and an option, used in two places")]
    fn project<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        x: TensorRef<'_, D>,
    ) -> Result<(Block<D>, Block<D>, Block<D>, Option<[(Block<D>, NormSaved<D>); 2]>)> {
        let tokens = pass.tokens();
        let mut query = self.query.forward(pass, weights, x)?;
        let mut key = self.key.forward(pass, weights, x)?;
        let value = self.value.forward(pass, weights, x)?;
        let mut before_norms = None;
        if let Some((query_norm, key_norm)) = self.head_norms {
            let (normed_query, query_saved) = query_norm.forward(pass, weights, query.view([query.len()]))?;
            let (normed_key, key_saved) = key_norm.forward(pass, weights, key.view([key.len()]))?;
            let before_query = std::mem::replace(&mut query, normed_query);
            let before_key = std::mem::replace(&mut key, normed_key);
            before_norms = Some([(before_query, query_saved), (before_key, key_saved)]);
        }
        let (positions, table) = (pass.positions(), pass.rope_table());
        rope::forward(pass.ctx, positions, table, query.view_mut(self.query_extents(tokens)))?;
        rope::forward(pass.ctx, positions, table, key.view_mut(self.key_extents(tokens)))?;
        Ok((query, key, value, before_norms))
    }

    /// This rank's term of the gradient of the layer's input `x`, given that of its output `dout` [tokens, hidden].
    pub fn backward<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        gradients: &mut UnitGradients<'_, D>,
        saved: AttentionSaved<D>,
        x: TensorRef<'_, D>,
        dout: TensorRef<'_, D>,
    ) -> Result<Block<D>> {
        let tokens = pass.tokens();
        let mixed_grid = [tokens, self.output.in_features];
        self.output.backward_parameters(pass, gradients, saved.mixed.view(mixed_grid), dout)?;
        let mut dmixed = pass.activations(self.output.in_features)?;
        self.output.backward_input(pass, weights, dout, Write::Replace, dmixed.view_mut(mixed_grid))?;

        let (mut dquery, mut dkey, mut dvalue) = (
            pass.activations(self.query.out_features)?,
            pass.activations(self.key.out_features)?,
            pass.activations(self.value.out_features)?,
        );
        attention::backward(
            pass.ctx,
            self.shape_in(pass),
            saved.query.view(self.query_extents(tokens)),
            saved.key.view(self.key_extents(tokens)),
            saved.value.view(self.key_extents(tokens)),
            pass.cu_seqlens(),
            pass.cu_seqlens(),
            saved.logsumexp.view([self.shape.num_heads, tokens]),
            dmixed.view(self.query_extents(tokens)),
            dquery.view_mut(self.query_extents(tokens)),
            dkey.view_mut(self.key_extents(tokens)),
            dvalue.view_mut(self.key_extents(tokens)),
        )?;
        drop(dmixed);

        let (positions, table) = (pass.positions(), pass.rope_table());
        rope::backward(pass.ctx, positions, table, dquery.view_mut(self.query_extents(tokens)))?;
        rope::backward(pass.ctx, positions, table, dkey.view_mut(self.key_extents(tokens)))?;
        if let (Some((query_norm, key_norm)), Some([query, key])) = (self.head_norms, &saved.before_norms) {
            dquery = head_norm_backward(pass, weights, gradients, &query_norm, query, dquery)?;
            dkey = head_norm_backward(pass, weights, gradients, &key_norm, key, dkey)?;
        }

        let mut dx = pass.activations(self.query.in_features)?;
        let projections = [(&self.query, &dquery), (&self.key, &dkey), (&self.value, &dvalue)];
        for (i, (projection, dy)) in projections.into_iter().enumerate() {
            let dy = dy.view([tokens, projection.out_features]);
            projection.backward_parameters(pass, gradients, x, dy)?;
            let write = if i == 0 { Write::Replace } else { Write::Add };
            let dx = dx.view_mut([tokens, projection.in_features]);
            projection.backward_input(pass, weights, dy, write, dx)?;
        }
        Ok(dx)
    }
}

/// Gradient before a norm per head, given that behind it.
fn head_norm_backward<D: Device>(
    pass: &Pass<'_, D>,
    weights: &UnitWeights<'_, D>,
    gradients: &mut UnitGradients<'_, D>,
    norm: &Norm,
    (before, saved): &(Block<D>, NormSaved<D>),
    dout: Block<D>,
) -> Result<Block<D>> {
    let flat = [before.len()];
    let mut dx = pass.elements(before.len())?;
    let (x, dout) = (before.view(flat), dout.view(flat));
    norm.backward(pass, weights, gradients, saved, x, dout, Write::Replace, dx.view_mut(flat))?;
    Ok(dx)
}
