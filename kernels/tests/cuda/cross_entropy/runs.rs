//! Losses of rows of logits: what goes in, the definition in f64, and the kernels, of one rank or of several.

use tisserand_kernels::ops::cross_entropy::{CrossEntropyParams, CrossEntropyShape, IGNORED, ShardShape};
use tisserand_kernels::testing::{download, normal_f64, poisoned, upload, upload_as};
use tisserand_kernels::{Block, Context, DType, Device};

use DType::{Bf16, F32};

/// Rows of logits and their labels. The logits begin at element `start` of their block.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    pub(crate) logits: Vec<f64>,
    pub(crate) labels: Vec<i32>,
    pub(crate) vocab_size: usize,
    pub(crate) start: usize,
    pub(crate) z_loss: f32,
    pub(crate) loss_scale: Option<f32>,
    /// Where gradients are rounded to bf16, apart from the logits: the element of their block at which they begin.
    pub(crate) dlogits_start: Option<usize>,
}

impl Rows {
    /// Every third label is ignored.
    pub(crate) fn new(tokens: usize, vocab_size: usize, start: usize) -> Self {
        let label = |t: usize| if t % 3 == 2 { IGNORED } else { (t * t * 7 % vocab_size) as i32 };
        Rows {
            logits: normal_f64(1, tokens * vocab_size).iter().map(|x| 4.0 * x).collect(),
            labels: (0..tokens).map(label).collect(),
            vocab_size,
            start,
            z_loss: 0.125,
            loss_scale: Some(0.5),
            dlogits_start: None,
        }
    }

    pub(crate) fn tokens(&self) -> usize {
        self.labels.len()
    }

    fn params(&self) -> CrossEntropyParams {
        CrossEntropyParams { z_loss: self.z_loss }
    }

    /// The columns [first, first + classes) in a block that begins with `start` other elements.
    fn upload<D: Device>(&self, ctx: &Context<D>, first: usize, classes: usize) -> Block<D> {
        let mut values = vec![7.0; self.start];
        for row in self.logits.chunks(self.vocab_size) {
            values.extend_from_slice(&row[first..first + classes]);
        }
        upload_as(ctx, F32, &values)
    }

    /// Room for rounded gradients, and where in it they begin.
    fn dlogits<D: Device>(&self, ctx: &Context<D>, classes: usize) -> Option<(Block<D>, usize)> {
        self.dlogits_start.map(|start| (poisoned(ctx, Bf16, [start + self.tokens() * classes]), start))
    }

    fn gradients<D: Device>(
        &self,
        ctx: &Context<D>,
        in_place: &Block<D>,
        apart: Option<&(Block<D>, usize)>,
    ) -> Vec<f32> {
        let (block, start) = apart.map_or((in_place, self.start), |(block, start)| (block, *start));
        download(ctx, block)[start..].to_vec()
    }
}

/// Cross-entropies, z-losses, gradients.
#[derive(Debug)]
pub(crate) struct Outputs<T> {
    pub(crate) losses: [Vec<T>; 2],
    pub(crate) gradients: Vec<T>,
}

/// The definition.
pub(crate) fn reference(rows: &Rows) -> Outputs<f64> {
    let mut outputs = Outputs { losses: [vec![], vec![]], gradients: vec![] };
    let (z_loss, scale) = (f64::from(rows.z_loss), f64::from(rows.loss_scale.unwrap_or(0.0)));
    for (logits, &label) in rows.logits.chunks(rows.vocab_size).zip(&rows.labels) {
        let max = logits.iter().fold(f64::NEG_INFINITY, |max, &l| max.max(l));
        let lse = max + logits.iter().map(|l| (l - max).exp()).sum::<f64>().ln();
        let counts = if label == IGNORED { 0.0 } else { 1.0 };
        let target = if label == IGNORED { 0 } else { label as usize };
        outputs.losses[0].push(counts * (lse - logits[target]));
        outputs.losses[1].push(counts * z_loss * lse * lse);
        for (v, logit) in logits.iter().enumerate() {
            let softmax = (logit - lse).exp() * (1.0 + 2.0 * z_loss * lse);
            outputs.gradients.push(counts * scale * (softmax - if v == target { 1.0 } else { 0.0 }));
        }
    }
    outputs
}

pub(crate) fn fused<D: Device>(ctx: &Context<D>, rows: &Rows) -> Outputs<f32> {
    let (tokens, vocab_size) = (rows.tokens(), rows.vocab_size);
    let (mut logits, mut dlogits) = (rows.upload(ctx, 0, vocab_size), rows.dlogits(ctx, vocab_size));
    let (labels, scale) = (upload(ctx, &rows.labels), rows.loss_scale.map(|scale| upload(ctx, &[scale])));
    let [mut cross_entropy, mut z_losses] = [(); 2].map(|()| poisoned(ctx, F32, [tokens]));
    let shape = CrossEntropyShape { tokens, vocab_size, hidden_size: 1 };
    ctx.device
        .softmax_cross_entropy_rows(
            shape,
            &rows.params(),
            scale.as_ref().map(|scale| scale.view([1])),
            logits.range_mut(rows.start, [tokens, vocab_size]),
            dlogits.as_mut().map(|(dlogits, start)| dlogits.range_mut(*start, [tokens, vocab_size])),
            labels.view([tokens]),
            cross_entropy.view_mut([tokens]),
            z_losses.view_mut([tokens]),
        )
        .unwrap();
    let losses = [&cross_entropy, &z_losses].map(|losses| download(ctx, losses));
    Outputs { losses, gradients: rows.gradients(ctx, &logits, dlogits.as_ref()) }
}

/// The phases of `ranks` ranks, one after the other; the gradients are those of the ranks side by side.
pub(crate) struct Phases {
    pub(crate) maxima: Vec<Vec<f32>>,
    pub(crate) exponentials: Vec<Vec<f32>>,
    pub(crate) terms: Vec<Vec<f32>>,
    pub(crate) outputs: Vec<Outputs<f32>>,
}

pub(crate) fn shards(rows: &Rows, ranks: usize) -> Vec<ShardShape> {
    let (tokens, vocab_size) = (rows.tokens(), rows.vocab_size);
    let held = vocab_size.div_ceil(ranks).next_multiple_of(2);
    let shard = |rank| {
        let first_class = rank * held;
        let classes = vocab_size.saturating_sub(first_class).min(held);
        ShardShape { tokens, first_class, classes, vocab_size }
    };
    (0..ranks).map(shard).collect()
}

pub(crate) fn phases<D: Device>(ctx: &Context<D>, rows: &Rows, ranks: usize) -> Phases {
    let (tokens, shards) = (rows.tokens(), shards(rows, ranks));
    let (labels, scale) = (upload(ctx, &rows.labels), rows.loss_scale.map(|scale| upload(ctx, &[scale])));
    let mut parts: Vec<Block<D>> = shards
        .iter()
        .map(|shard| rows.upload(ctx, shard.first_class.min(rows.vocab_size), shard.classes))
        .collect();
    let mut all = Phases { maxima: vec![], exponentials: vec![], terms: vec![], outputs: vec![] };
    for (shard, part) in shards.iter().zip(&parts) {
        let mut maxima = poisoned(ctx, F32, [tokens]);
        let logits = part.range(rows.start, [tokens, shard.classes]);
        ctx.device.shard_maxima(*shard, logits, maxima.view_mut([tokens])).unwrap();
        all.maxima.push(download(ctx, &maxima));
    }
    let maxima = upload(ctx, &combined(&all.maxima, f32::max));
    for (shard, part) in shards.iter().zip(&mut parts) {
        let mut terms = poisoned(ctx, F32, [2, tokens]);
        let logits = part.range_mut(rows.start, [tokens, shard.classes]);
        let (labels, maxima) = (labels.view([tokens]), maxima.view([tokens]));
        ctx.device.shard_terms(*shard, labels, maxima, logits, terms.view_mut([2, tokens])).unwrap();
        all.exponentials.push(download(ctx, part)[rows.start..].to_vec());
        all.terms.push(download(ctx, &terms));
    }
    let terms = upload(ctx, &combined(&all.terms, |a, b| a + b));
    for (shard, part) in shards.iter().zip(&mut parts) {
        let [mut cross_entropy, mut z_losses] = [(); 2].map(|()| poisoned(ctx, F32, [tokens]));
        let mut dlogits = rows.dlogits(ctx, shard.classes);
        ctx.device
            .shard_losses(
                *shard,
                &rows.params(),
                scale.as_ref().map(|scale| scale.view([1])),
                labels.view([tokens]),
                maxima.view([tokens]),
                terms.view([2, tokens]),
                part.range_mut(rows.start, [tokens, shard.classes]),
                dlogits.as_mut().map(|(dlogits, start)| dlogits.range_mut(*start, [tokens, shard.classes])),
                cross_entropy.view_mut([tokens]),
                z_losses.view_mut([tokens]),
            )
            .unwrap();
        let losses = [&cross_entropy, &z_losses].map(|losses| download(ctx, losses));
        all.outputs.push(Outputs { losses, gradients: rows.gradients(ctx, part, dlogits.as_ref()) });
    }
    all
}

fn combined(parts: &[Vec<f32>], how: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    let combine = |all: Vec<f32>, part: &Vec<f32>| all.iter().zip(part).map(|(a, b)| how(*a, *b)).collect();
    parts[1..].iter().fold(parts[0].clone(), combine)
}
