//! Every op at the shapes of the reference model, against the floor that this machine sets.
//!
//! `cargo bench --bench kernels -- [--threads 2] [--only NAME]`
//!
//! The floor of a call is `max(FLOPs / peak, bytes / bandwidth)`, where FLOPs and bytes are those that the
//! op records (found by running it on the dry run), peak is the rate of independent fused multiply-adds on
//! registers, and bandwidth that of copies larger than any cache, both measured here with as many threads.
//! The ratio is the fastest call over the floor. It may be below 1 where tensors stay in cache.

mod reference;

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use pulp::{Simd, WithSimd};
use reference::{HEAD_DIM, HEADS, HIDDEN, INTERMEDIATE, KV_HEADS, SEQ, TOKENS, VOCAB};
use tisserand_kernels::ops::adamw::{self, AdamwParams};
use tisserand_kernels::ops::attention::{self, AttentionShape};
use tisserand_kernels::ops::cross_entropy::{self, CrossEntropyParams, Whole};
use tisserand_kernels::ops::philox::{self, GlobalIndex, NormalParams};
use tisserand_kernels::ops::rope::{self, RopeScaling, Turn};
use tisserand_kernels::ops::step_scalars::{self, StepScalars};
use tisserand_kernels::ops::{CHUNK, Write, elementwise, embedding, gemm, grad_norm, rms_norm, swiglu};
use tisserand_kernels::{Block, Class, Context, Cost, Cpu, DType, Device, DryRun, Element, Result};

/// One call of an op on tensors that it owns.
type Run<D> = Box<dyn FnMut(&Context<D>) -> Result<()>>;

/// A call of one op, with the blocks that it works on.
struct Case<D: Device> {
    name: String,
    run: Run<D>,
}

/// The elements of whole tensors.
const WHOLE: GlobalIndex = GlobalIndex::contiguous(0);

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let (threads, only) = options()?;
    let dry = DryRun::new(Cpu::CAPS);
    let ctx = Context::new(dry.clone(), DryRun::CAPACITY_BYTES)?;
    let mut costs = Vec::new();
    for mut case in cases(&ctx)? {
        dry.take_totals();
        (case.run)(&ctx)?;
        let totals = dry.take_totals();
        let [total] = totals.as_slice() else { return Err(format!("{}: not one op", case.name).into()) };
        costs.push(total.cost);
    }

    let ctx = Context::new(Cpu::new(threads)?, ctx.arena.high_water_bytes())?;
    let machine = Machine::measure(threads);
    println!(
        "{threads} threads: {:.1} GFLOP/s of f32 multiply-adds, {:.1} GB/s of copies",
        machine.flop_per_s / 1e9,
        machine.byte_per_s / 1e9
    );
    println!("{:<44} {:>10} {:>10} {:>9} {:>9} {:>7}", "op", "fastest", "median", "GFLOP/s", "GB/s", "ratio");
    for (mut case, cost) in cases(&ctx)?.into_iter().zip(costs) {
        if only.as_ref().is_none_or(|only| case.name.contains(only)) {
            let [fastest, median] = time(|| (case.run)(&ctx))?;
            print(&case.name, cost, &machine, fastest, median);
        }
    }
    Ok(())
}

fn options() -> std::result::Result<(usize, Option<String>), Box<dyn Error>> {
    let (mut threads, mut only) = (2, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--threads" => threads = value()?.parse()?,
            "--only" => only = Some(value()?),
            "--bench" => {} // what cargo passes
            _ => return Err(format!("unknown argument {argument:?}").into()),
        }
    }
    Ok((threads, only))
}

fn print(name: &str, cost: Cost, machine: &Machine, fastest: f64, median: f64) {
    let floor = (cost.flops as f64 / machine.flop_per_s).max(cost.bytes as f64 / machine.byte_per_s);
    println!(
        "{name:<44} {:>7.3} ms {:>7.3} ms {:>9.1} {:>9.1} {:>7.2}",
        1e3 * fastest,
        1e3 * median,
        cost.flops as f64 / fastest / 1e9,
        cost.bytes as f64 / fastest / 1e9,
        fastest / floor
    );
}

/// Seconds of the fastest and of the median call, of at least 10 and of as many as 0.2 s hold.
fn time(mut call: impl FnMut() -> Result<()>) -> Result<[f64; 2]> {
    const MIN_CALLS: usize = 10;
    const SECONDS: f64 = 0.2;
    call()?;
    let mut seconds = Vec::new();
    let begun = Instant::now();
    while seconds.len() < MIN_CALLS || begun.elapsed().as_secs_f64() < SECONDS {
        let start = Instant::now();
        call()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok([seconds[0], seconds[seconds.len() / 2]])
}

/// What the machine can do at most.
struct Machine {
    flop_per_s: f64,
    byte_per_s: f64,
}

impl Machine {
    fn measure(threads: usize) -> Self {
        let best = |runs: usize, run: &mut dyn FnMut() -> f64| (0..runs).map(|_| run()).fold(0.0, f64::max);
        let flop_per_s = best(20, &mut || on_threads(vec![(); threads], |()| multiply_adds()));
        let mut buffers: Vec<[Vec<f32>; 2]> =
            (0..threads).map(|_| [vec![1.0; COPIED], vec![0.0; COPIED]]).collect();
        let byte_per_s = best(20, &mut || {
            on_threads(buffers.iter_mut().collect(), |[from, to]| {
                black_box(&mut *to).copy_from_slice(black_box(from));
                8.0 * COPIED as f64
            })
        });
        Machine { flop_per_s, byte_per_s }
    }
}

/// Elements that each thread copies: 64 MiB.
const COPIED: usize = 16 << 20;

/// The work that all threads report, per second.
fn on_threads<T: Send>(inputs: Vec<T>, work: impl Fn(T) -> f64 + Sync) -> f64 {
    let begun = Instant::now();
    let total: f64 = std::thread::scope(|scope| {
        let threads: Vec<_> = inputs.into_iter().map(|input| scope.spawn(|| work(input))).collect();
        threads.into_iter().map(|thread| thread.join().expect("the work does not panic")).sum()
    });
    total / begun.elapsed().as_secs_f64()
}

/// FLOPs of a loop over more chains of multiply-adds than the units have stages.
fn multiply_adds() -> f64 {
    const CHAINS: usize = 12;
    const ROUNDS: usize = 1 << 21;
    struct Chains;
    impl WithSimd for Chains {
        type Output = f64;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> f64 {
            let (factor, term) = (simd.splat_f32s(black_box(0.999)), simd.splat_f32s(black_box(0.001)));
            let mut sums = [simd.splat_f32s(1.0); CHAINS];
            for _ in 0..ROUNDS {
                for sum in &mut sums {
                    *sum = simd.mul_add_f32s(*sum, factor, term);
                }
            }
            black_box(sums.map(|sum| simd.reduce_sum_f32s(sum)));
            (2 * S::F32_LANES * CHAINS * ROUNDS) as f64
        }
    }
    pulp::Arch::new().dispatch(Chains)
}

/// Makes blocks and counts them apart, so that no two tensors have the same numbers.
struct Inputs<'a, D: Device> {
    ctx: &'a Context<D>,
    made: u64,
}

impl<D: Device> Inputs<'_, D> {
    /// Normal numbers.
    fn normal(&mut self, len: usize) -> Result<Block<D>> {
        self.made += 1;
        let mut block = self.ctx.arena.block(Class::Activations, DType::F32, len)?;
        let params = NormalParams { seed: 1, tensor_key: self.made, index: WHOLE, std: 1.0, mean: 0.0 };
        philox::normal(self.ctx, &params, block.view_mut([len]))?;
        Ok(block)
    }

    fn values<T: Element>(&mut self, values: &[T]) -> Result<Block<D>> {
        let mut block = self.ctx.arena.block(Class::Batch, T::DTYPE, values.len())?;
        self.ctx.device.upload(values, block.view_mut([values.len()]))?;
        Ok(block)
    }

    /// Token ids of a micro-batch.
    fn tokens(&mut self) -> Result<Block<D>> {
        let token = |i: u32| philox::philox4x32([i, 0, 0, 0], [7, 7])[0] % VOCAB as u32;
        self.values(&(0..TOKENS as u32).map(token).collect::<Vec<_>>())
    }
}

/// Every op.
fn cases<D: Device>(ctx: &Context<D>) -> Result<Vec<Case<D>>> {
    let mut inputs = Inputs { ctx, made: 0 };
    let mut cases = Vec::new();
    products(&mut inputs, &mut cases)?;
    attentions(&mut inputs, &mut cases)?;
    rows(&mut inputs, &mut cases)?;
    losses(&mut inputs, &mut cases)?;
    elements(&mut inputs, &mut cases)?;
    updates(&mut inputs, &mut cases)?;
    Ok(cases)
}

fn case<D: Device>(
    cases: &mut Vec<Case<D>>,
    name: impl Into<String>,
    run: impl FnMut(&Context<D>) -> Result<()> + 'static,
) {
    cases.push(Case { name: name.into(), run: Box::new(run) });
}

/// The linear layers of a block: forward, gradient of the input, gradient of the weight.
fn products<D: Device>(inputs: &mut Inputs<'_, D>, cases: &mut Vec<Case<D>>) -> Result<()> {
    let layers = [
        ("query", HIDDEN, HIDDEN),
        ("key", HIDDEN, KV_HEADS * HEAD_DIM),
        ("gate, up", HIDDEN, 2 * INTERMEDIATE),
        ("down", INTERMEDIATE, HIDDEN),
    ];
    for (name, in_features, out_features) in layers {
        let (x_grid, y_grid, w_grid) =
            ([TOKENS, in_features], [TOKENS, out_features], [out_features, in_features]);
        let mut tensors = || -> Result<[Block<D>; 3]> {
            Ok([
                inputs.normal(TOKENS * in_features)?,
                inputs.normal(TOKENS * out_features)?,
                inputs.normal(out_features * in_features)?,
            ])
        };
        let [x, mut y, w] = tensors()?;
        case(cases, format!("gemm::linear_forward {name}"), move |ctx| {
            gemm::linear_forward(ctx, x.view(x_grid), w.view(w_grid), None, y.view_mut(y_grid))
        });
        let [mut dx, dy, w] = tensors()?;
        case(cases, format!("gemm::linear_backward_input {name}"), move |ctx| {
            let (dy, w) = (dy.view(y_grid), w.view(w_grid));
            gemm::linear_backward_input(ctx, dy, w, Write::Replace, dx.view_mut(x_grid))
        });
        let [x, dy, mut dw] = tensors()?;
        case(cases, format!("gemm::linear_backward_weight {name}"), move |ctx| {
            gemm::linear_backward_weight(ctx, dy.view(y_grid), x.view(x_grid), dw.view_mut(w_grid))
        });
    }
    Ok(())
}

fn attentions<D: Device>(inputs: &mut Inputs<'_, D>, cases: &mut Vec<Case<D>>) -> Result<()> {
    let shape = AttentionShape {
        num_heads: HEADS,
        num_kv_heads: KV_HEADS,
        head_dim: HEAD_DIM,
        window: None,
        longest: SEQ,
    };
    let (q_grid, k_grid) = ([TOKENS, HEADS, HEAD_DIM], [TOKENS, KV_HEADS, HEAD_DIM]);
    let bounds: Vec<u32> = (0..=TOKENS).step_by(SEQ).map(|end| end as u32).collect();
    let segments = bounds.len();
    let grid = [HEADS, TOKENS];
    let (q_len, k_len) = (TOKENS * HIDDEN, TOKENS * KV_HEADS * HEAD_DIM);
    let (q, k, v) = (inputs.normal(q_len)?, inputs.normal(k_len)?, inputs.normal(k_len)?);
    let (mut out, mut logsumexp) = (inputs.normal(q_len)?, inputs.normal(HEADS * TOKENS)?);
    let ends = inputs.values(&bounds)?;
    case(cases, "attention::forward", move |ctx| {
        let (q, k, v, ends) = (q.view(q_grid), k.view(k_grid), v.view(k_grid), ends.view([segments]));
        let (out, logsumexp) = (out.view_mut(q_grid), logsumexp.view_mut(grid));
        attention::forward(ctx, shape, q, k, v, ends, ends, out, logsumexp)
    });
    let (q, k, v) = (inputs.normal(q_len)?, inputs.normal(k_len)?, inputs.normal(k_len)?);
    let (mut out, mut logsumexp) = (inputs.normal(q_len)?, inputs.normal(HEADS * TOKENS)?);
    let (dout, mut dq) = (inputs.normal(q_len)?, inputs.normal(q_len)?);
    let (mut dk, mut dv) = (inputs.normal(k_len)?, inputs.normal(k_len)?);
    let ends = inputs.values(&bounds)?;
    // Outputs of a true forward pass, so that the probabilities of the backward pass are ordinary numbers.
    let segments_view = [segments];
    attention::forward(
        inputs.ctx,
        shape,
        q.view(q_grid),
        k.view(k_grid),
        v.view(k_grid),
        ends.view(segments_view),
        ends.view(segments_view),
        out.view_mut(q_grid),
        logsumexp.view_mut(grid),
    )?;
    case(cases, "attention::backward", move |ctx| {
        let (q, k, v, ends) = (q.view(q_grid), k.view(k_grid), v.view(k_grid), ends.view([segments]));
        let (logsumexp, dout) = (logsumexp.view(grid), dout.view(q_grid));
        let (dq, dk, dv) = (dq.view_mut(q_grid), dk.view_mut(k_grid), dv.view_mut(k_grid));
        attention::backward(ctx, shape, q, k, v, ends, ends, logsumexp, dout, dq, dk, dv)
    });
    Ok(())
}

/// Ops over rows of activations: norms, rotation, activation function.
fn rows<D: Device>(inputs: &mut Inputs<'_, D>, cases: &mut Vec<Case<D>>) -> Result<()> {
    const EPS: f32 = 1e-5;
    const LEN: usize = TOKENS * HIDDEN;
    let grid = [TOKENS, HIDDEN];
    let (x, w) = (inputs.normal(LEN)?, inputs.normal(HIDDEN)?);
    let (mut y, mut rstd) = (inputs.normal(LEN)?, inputs.normal(TOKENS)?);
    case(cases, "rms_norm::forward", move |ctx| {
        let (y, rstd) = (y.view_mut(grid), rstd.view_mut([TOKENS]));
        rms_norm::forward(ctx, EPS, x.view(grid), w.view([HIDDEN]), y, rstd)
    });
    let (x, residual, w) = (inputs.normal(LEN)?, inputs.normal(LEN)?, inputs.normal(HIDDEN)?);
    let (mut sum, mut y, mut rstd) = (inputs.normal(LEN)?, inputs.normal(LEN)?, inputs.normal(TOKENS)?);
    case(cases, "rms_norm::add_forward", move |ctx| {
        let (x, residual, w) = (x.view(grid), residual.view(grid), w.view([HIDDEN]));
        let (sum, y, rstd) = (sum.view_mut(grid), y.view_mut(grid), rstd.view_mut([TOKENS]));
        rms_norm::add_forward(ctx, EPS, x, residual, w, sum, y, rstd)
    });
    let (dy, x, w, rstd) =
        (inputs.normal(LEN)?, inputs.normal(LEN)?, inputs.normal(HIDDEN)?, inputs.normal(TOKENS)?);
    let (mut dx, mut dw) = (inputs.normal(LEN)?, inputs.normal(HIDDEN)?);
    case(cases, "rms_norm::backward", move |ctx| {
        let (dy, x, w, rstd) = (dy.view(grid), x.view(grid), w.view([HIDDEN]), rstd.view([TOKENS]));
        let (dx, dw) = (dx.view_mut(grid), dw.view_mut([HIDDEN]));
        rms_norm::backward(ctx, dy, x, w, rstd, Write::Replace, dx, dw)
    });
    let (heads, table_grid) = ([TOKENS, HEADS, HEAD_DIM], [SEQ, HEAD_DIM]);
    let positions: Vec<u32> = (0..TOKENS).map(|i| (i % SEQ) as u32).collect();
    for turn in [Turn::Forward, Turn::Backward] {
        let table = inputs.values(&rope::table(HEAD_DIM, 1e4, &RopeScaling::None, SEQ))?;
        let (positions, mut x) = (inputs.values(&positions)?, inputs.normal(LEN)?);
        case(cases, format!("rope {turn:?}"), move |ctx| {
            let (positions, table, x) = (positions.view([TOKENS]), table.view(table_grid), x.view_mut(heads));
            match turn {
                Turn::Forward => rope::forward(ctx, positions, table, x),
                Turn::Backward => rope::backward(ctx, positions, table, x),
            }
        });
    }
    let (wide, narrow) = ([TOKENS, 2 * INTERMEDIATE], [TOKENS, INTERMEDIATE]);
    let (x, mut y) = (inputs.normal(2 * TOKENS * INTERMEDIATE)?, inputs.normal(TOKENS * INTERMEDIATE)?);
    case(cases, "swiglu::forward", move |ctx| swiglu::forward(ctx, x.view(wide), y.view_mut(narrow)));
    let (x, dy) = (inputs.normal(2 * TOKENS * INTERMEDIATE)?, inputs.normal(TOKENS * INTERMEDIATE)?);
    let mut dx = inputs.normal(2 * TOKENS * INTERMEDIATE)?;
    case(cases, "swiglu::backward", move |ctx| {
        swiglu::backward(ctx, x.view(wide), dy.view(narrow), dx.view_mut(wide))
    });
    Ok(())
}

/// Both ends of the model: embedding and loss.
fn losses<D: Device>(inputs: &mut Inputs<'_, D>, cases: &mut Vec<Case<D>>) -> Result<()> {
    let (grid, table_grid) = ([TOKENS, HIDDEN], [VOCAB, HIDDEN]);
    let (tokens, table) = (inputs.tokens()?, inputs.normal(VOCAB * HIDDEN)?);
    let mut y = inputs.normal(TOKENS * HIDDEN)?;
    case(cases, "embedding::forward", move |ctx| {
        embedding::forward(ctx, 0, tokens.view([TOKENS]), table.view(table_grid), y.view_mut(grid))
    });
    let (tokens, dy) = (inputs.tokens()?, inputs.normal(TOKENS * HIDDEN)?);
    let mut dtable = inputs.normal(VOCAB * HIDDEN)?;
    case(cases, "embedding::backward", move |ctx| {
        embedding::backward(ctx, 0, tokens.view([TOKENS]), dy.view(grid), dtable.view_mut(table_grid))
    });
    let params = CrossEntropyParams { z_loss: 0.0 };
    let labels: Vec<i32> = (0..TOKENS as i32).map(|i| (i * 31) % VOCAB as i32).collect();
    let (x, w) = (inputs.normal(TOKENS * HIDDEN)?, inputs.normal(VOCAB * HIDDEN)?);
    let (targets, mut losses) = (inputs.values(&labels)?, inputs.normal(2 * TOKENS)?);
    case(cases, "cross_entropy::linear_forward", move |ctx| {
        let (x, w, targets) = (x.view(grid), w.view(table_grid), targets.view([TOKENS]));
        let losses = losses.view_mut([2, TOKENS]);
        cross_entropy::linear_forward(ctx, &params, VOCAB, &mut Whole, x, w, targets, losses)
    });
    let (x, w) = (inputs.normal(TOKENS * HIDDEN)?, inputs.normal(VOCAB * HIDDEN)?);
    let (mut dx, mut dw) = (inputs.normal(TOKENS * HIDDEN)?, inputs.normal(VOCAB * HIDDEN)?);
    let (targets, mut losses) = (inputs.values(&labels)?, inputs.normal(2 * TOKENS)?);
    let scale = inputs.values(&[1.0 / TOKENS as f32])?;
    case(cases, "cross_entropy::linear_forward_backward", move |ctx| {
        let (x, w, targets) = (x.view(grid), w.view(table_grid), targets.view([TOKENS]));
        let (losses, dx, dw) = (losses.view_mut([2, TOKENS]), dx.view_mut(grid), dw.view_mut(table_grid));
        let (whole, scale) = (&mut Whole, scale.view([1]));
        cross_entropy::linear_forward_backward(
            ctx, &params, VOCAB, whole, x, w, targets, scale, losses, dx, dw,
        )
    });
    Ok(())
}

fn elements<D: Device>(inputs: &mut Inputs<'_, D>, cases: &mut Vec<Case<D>>) -> Result<()> {
    const LEN: usize = TOKENS * HIDDEN;
    let (x, mut y) = (inputs.normal(LEN)?, inputs.normal(LEN)?);
    case(cases, "elementwise::add_assign", move |ctx| {
        elementwise::add_assign(ctx, x.view([LEN]), y.view_mut([LEN]))
    });
    let x = inputs.normal(LEN)?;
    let mut y = inputs.ctx.arena.block(Class::Activations, DType::Bf16, LEN)?;
    case(cases, "elementwise::cast to bf16", move |ctx| {
        elementwise::cast(ctx, x.view([LEN]), y.view_mut([LEN]))
    });
    let mut y = inputs.normal(LEN)?;
    case(cases, "elementwise::fill", move |ctx| elementwise::fill(ctx, 1.0, y.view_mut([LEN])));
    let (x, mut sums) = (inputs.normal(LEN)?, inputs.normal(HIDDEN)?);
    case(cases, "elementwise::column_sum", move |ctx| {
        elementwise::column_sum(ctx, x.view([TOKENS, HIDDEN]), sums.view_mut([HIDDEN]))
    });
    let (x, mut sum) = (inputs.normal(LEN)?, inputs.normal(1)?);
    case(cases, "elementwise::sum", move |ctx| {
        elementwise::sum(ctx, x.view([LEN]), Write::Replace, sum.view_mut([1]))
    });
    Ok(())
}

/// The end of a step, on the parameters of the embedding.
fn updates<D: Device>(inputs: &mut Inputs<'_, D>, cases: &mut Vec<Case<D>>) -> Result<()> {
    const LEN: usize = VOCAB * HIDDEN;
    const CHUNKS: usize = LEN / CHUNK;
    const WORDS: usize = step_scalars::WORDS;
    let (x, mut partials) = (inputs.normal(LEN)?, inputs.normal(CHUNKS)?);
    case(cases, "grad_norm::sum_of_squares", move |ctx| {
        grad_norm::sum_of_squares(ctx, x.view([LEN]), partials.view_mut([CHUNKS]))
    });
    let (mut partials, mut sum) = (inputs.normal(CHUNKS)?, inputs.normal(1)?);
    case(cases, "grad_norm::tree_sum", move |ctx| {
        grad_norm::tree_sum(ctx, partials.view_mut([CHUNKS]), sum.view_mut([1]))
    });
    let (sum, loss_sums) = (inputs.values(&[1.0_f32])?, inputs.values(&[1.0_f32, 0.0])?);
    let mut scalars = inputs.values(&StepScalars::default().to_words())?;
    case(cases, "step_scalars::finish", move |ctx| {
        step_scalars::finish(ctx, sum.view([1]), loss_sums.view([2]), scalars.view_mut([WORDS]))
    });
    let scalars = StepScalars {
        lr: 1e-4,
        beta1: 0.9,
        beta2: 0.95,
        clip_factor: 1.0,
        bias_correction1: 1.0,
        bias_correction2: 1.0,
        update: 1,
        ..StepScalars::default()
    };
    let params = AdamwParams { lr_scale: 1.0, eps: 1e-8, weight_decay: 0.1, tensor_key: 1, index: WHOLE };
    let (scalars, grad) = (inputs.values(&scalars.to_words())?, inputs.normal(LEN)?);
    let (mut master, mut weights) = (inputs.normal(LEN)?, inputs.normal(LEN)?);
    let (mut m, mut v) = (inputs.values(&vec![0.0_f32; LEN])?, inputs.values(&vec![0.0_f32; LEN])?);
    case(cases, "adamw::update", move |ctx| {
        let (scalars, grad, master) = (scalars.view([WORDS]), grad.view([LEN]), master.view_mut([LEN]));
        let (m, v, weights) = (m.view_mut([LEN]), v.view_mut([LEN]), weights.view_mut([LEN]));
        adamw::update(ctx, &params, scalars, grad, master, m, v, weights)
    });
    let mut x = inputs.normal(LEN)?;
    let normal = NormalParams { seed: 1, tensor_key: 1, index: WHOLE, std: 1.0, mean: 0.0 };
    case(cases, "philox::normal", move |ctx| philox::normal(ctx, &normal, x.view_mut([LEN])));
    Ok(())
}
