//! Ranks that meet: each a thread with a device of its own, which combine in the order of ranks.

use std::sync::{Barrier, Mutex};

use tisserand_kernels::ops::cross_entropy::{AcrossRanks, linear_forward, linear_forward_backward};
use tisserand_kernels::{KernelError, Result, Storage};

use super::*;

/// What ranks combine, laid down by each and read by all.
struct Meeting {
    barrier: Barrier,
    values: Vec<Mutex<Vec<f32>>>,
}

impl Meeting {
    fn of(ranks: usize) -> Self {
        let values = (0..ranks).map(|_| Mutex::default()).collect();
        Meeting { barrier: Barrier::new(ranks), values }
    }
}

/// One rank at a meeting.
struct Member<'a> {
    rank: usize,
    meeting: &'a Meeting,
    ctx: Context<Cpu>,
    maxima: usize,
    sums: usize,
}

impl Member<'_> {
    fn combine(&self, mut block: Block<Cpu>, how: impl Fn(f32, f32) -> f32) -> Block<Cpu> {
        let len = block.len();
        *self.meeting.values[self.rank].lock().unwrap() = download(&self.ctx, &block);
        self.meeting.barrier.wait();
        let combine = |all: Vec<f32>, own: &Mutex<Vec<f32>>| {
            all.iter().zip(&*own.lock().unwrap()).map(|(a, b)| how(*a, *b)).collect()
        };
        let first = self.meeting.values[0].lock().unwrap().clone();
        let all: Vec<f32> = self.meeting.values[1..].iter().fold(first, combine);
        self.meeting.barrier.wait();
        self.ctx.device.upload(&all, block.view_mut([len])).unwrap();
        block
    }
}

impl AcrossRanks<Cpu> for Member<'_> {
    type Error = KernelError;

    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.meeting.values.len()
    }

    fn max(&mut self, values: Block<Cpu>) -> Result<Block<Cpu>> {
        self.maxima += 1;
        Ok(self.combine(values, f32::max))
    }

    fn sum(&mut self, values: Block<Cpu>) -> Result<Block<Cpu>> {
        self.sums += 1;
        Ok(self.combine(values, |a, b| a + b))
    }
}

/// What one rank computes.
pub(crate) struct Part {
    pub losses: Vec<f32>,
    pub evaluated: Vec<f32>,
    pub dx: Vec<f32>,
    pub dweight: Vec<f32>,
    pub maxima: usize,
    pub sums: usize,
}

/// Rows of each rank: an even number, so that one rank may have padding too.
pub(crate) fn rows(vocab_size: usize, ranks: usize) -> usize {
    vocab_size.div_ceil(ranks).next_multiple_of(2)
}

/// Everything that a run is made of but the number of ranks.
pub(crate) struct Case<'a> {
    pub shape: CrossEntropyShape,
    pub inputs: &'a Inputs,
    pub dtypes: (DType, DType),
    pub z_loss: f32,
    pub threads: usize,
}

impl Case<'_> {
    /// All ranks of a run; dweight starts from 0.5, padded rows of the weight are not a number.
    pub(crate) fn over(&self, ranks: usize) -> Vec<Part> {
        let meeting = Meeting::of(ranks);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..ranks)
                .map(|rank| {
                    scope.spawn({
                        let meeting = &meeting;
                        move || self.rank(meeting, rank)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    fn rank(&self, meeting: &Meeting, rank: usize) -> Part {
        let CrossEntropyShape { tokens, vocab_size, hidden_size } = self.shape;
        let (ctx, params) = (&context(self.threads), &CrossEntropyParams { z_loss: self.z_loss });
        let rows = rows(vocab_size, meeting.values.len());
        let held = |row: usize| row.min(vocab_size) * hidden_size;
        let mut weight = self.inputs.weight[held(rank * rows)..held((rank + 1) * rows)].to_vec();
        weight.resize(rows * hidden_size, f64::NAN);

        let (x, weight) =
            (upload_as(ctx, self.dtypes.0, &self.inputs.x), upload_as(ctx, self.dtypes.1, &weight));
        let (labels, scale) =
            (upload(ctx, &self.inputs.labels), upload(ctx, &[self.inputs.loss_scale as f32]));
        let [mut losses, mut evaluated] = [(); 2].map(|()| poisoned(ctx, F32, [2 * tokens]));
        let mut dx = poisoned(ctx, self.dtypes.0, [tokens, hidden_size]);
        let mut dweight = upload_as(ctx, F32, &vec![0.5; rows * hidden_size]);
        let mut member = Member { rank, meeting, ctx: ctx.clone(), maxima: 0, sums: 0 };
        let (x, weight) = (x.view([tokens, hidden_size]), weight.view([rows, hidden_size]));
        let (labels, scale) = (labels.view([tokens]), scale.view([1]));
        let (losses_view, dx_view) = (losses.view_mut([2, tokens]), dx.view_mut([tokens, hidden_size]));
        let dweight_view = dweight.view_mut([rows, hidden_size]);
        linear_forward_backward(
            ctx,
            params,
            vocab_size,
            &mut member,
            x,
            weight,
            labels,
            scale,
            losses_view,
            dx_view,
            dweight_view,
        )
        .unwrap();
        let (maxima, sums) = (member.maxima, member.sums);
        let view = evaluated.view_mut([2, tokens]);
        linear_forward(ctx, params, vocab_size, &mut member, x, weight, labels, view).unwrap();
        let [losses, evaluated, dx, dweight] =
            [&losses, &evaluated, &dx, &dweight].map(|block| download(ctx, block));
        Part { losses, evaluated, dx, dweight, maxima, sums }
    }
}
