//! Causal attention, bf16, 16k tokens in documents of one length.

use tisserand_kernels::ops::attention::{self, AttentionShape};
use tisserand_kernels::{Block, Context, DType, Device, Result};

use super::inputs::{Cases, Inputs};

/// Tokens of a call, whatever the length of documents.
const TOKENS: usize = 16_384;

/// Query heads, key heads, width of a head: 2,048 features each way, and one layer with grouped queries.
const HEADS: [[usize; 3]; 3] = [[16, 16, 128], [32, 32, 64], [32, 8, 128]];

/// Lengths of documents.
const LENGTHS: [usize; 5] = [1024, 2048, 4096, 8192, 16_384];

struct Tensors<D: Device> {
    shape: AttentionShape,
    q: Block<D>,
    k: Block<D>,
    v: Block<D>,
    bounds: Block<D>,
    out: Block<D>,
    logsumexp: Block<D>,
}

impl<D: Device> Tensors<D> {
    fn new(
        inputs: &mut Inputs<'_, D>,
        [num_heads, num_kv_heads, head_dim]: [usize; 3],
        longest: usize,
    ) -> Result<Self> {
        let shape = AttentionShape { num_heads, num_kv_heads, head_dim, window: None, longest };
        let bounds: Vec<u32> = (0..=TOKENS).step_by(longest).map(|bound| bound as u32).collect();
        let (q_len, k_len) = (TOKENS * num_heads * head_dim, TOKENS * num_kv_heads * head_dim);
        Ok(Tensors {
            shape,
            q: inputs.bf16(q_len)?,
            k: inputs.bf16(k_len)?,
            v: inputs.bf16(k_len)?,
            bounds: inputs.values(&bounds)?,
            out: inputs.room(DType::Bf16, q_len)?,
            logsumexp: inputs.room(DType::F32, TOKENS * num_heads)?,
        })
    }

    fn grids(&self) -> ([usize; 3], [usize; 3], [usize; 2], [usize; 1]) {
        let AttentionShape { num_heads, num_kv_heads, head_dim, .. } = self.shape;
        (
            [TOKENS, num_heads, head_dim],
            [TOKENS, num_kv_heads, head_dim],
            [num_heads, TOKENS],
            [self.bounds.len()],
        )
    }

    fn forward(&mut self, ctx: &Context<D>) -> Result<()> {
        let (q_grid, k_grid, lse_grid, bounds) = self.grids();
        let (q, k, v) = (self.q.view(q_grid), self.k.view(k_grid), self.v.view(k_grid));
        let (bounds, out) = (self.bounds.view(bounds), self.out.view_mut(q_grid));
        attention::forward(ctx, self.shape, q, k, v, bounds, bounds, out, self.logsumexp.view_mut(lse_grid))
    }
}

/// Both passes, for every kind of heads and every length.
pub(crate) fn add<D: Device>(cases: &mut Cases<D>) {
    for (heads, length) in HEADS.into_iter().flat_map(|heads| LENGTHS.map(|length| (heads, length))) {
        let [num_heads, num_kv_heads, head_dim] = heads;
        let grouped = num_heads != num_kv_heads;
        if grouped && length != 4096 {
            continue;
        }
        let name = |pass: &str| format!("attention {pass} d{head_dim} h{num_heads}/{num_kv_heads} {length}");
        cases.add(name("forward"), move |inputs| {
            let mut tensors = Tensors::new(inputs, heads, length)?;
            Ok(Box::new(move |ctx| tensors.forward(ctx)))
        });
        cases.add(name("backward"), move |inputs| {
            let mut tensors = Tensors::new(inputs, heads, length)?;
            let (q_grid, k_grid, lse_grid, bounds) = tensors.grids();
            let dout = inputs.bf16(tensors.q.len())?;
            let mut dq = inputs.room(DType::Bf16, tensors.q.len())?;
            let mut dk = inputs.room(DType::Bf16, tensors.k.len())?;
            let mut dv = inputs.room(DType::Bf16, tensors.k.len())?;
            // Sums of a true forward pass, so that the probabilities are ordinary numbers.
            tensors.forward(inputs.context())?;
            Ok(Box::new(move |ctx| {
                let (q, k, v) = (tensors.q.view(q_grid), tensors.k.view(k_grid), tensors.v.view(k_grid));
                let (bounds, logsumexp) = (tensors.bounds.view(bounds), tensors.logsumexp.view(lse_grid));
                let (dq, dk, dv) = (dq.view_mut(q_grid), dk.view_mut(k_grid), dv.view_mut(k_grid));
                let (shape, dout) = (tensors.shape, dout.view(q_grid));
                attention::backward(ctx, shape, q, k, v, bounds, bounds, logsumexp, dout, dq, dk, dv)
            }))
        });
    }
}
