//! AdamW on the CPU device: against the reference over several steps, slices, rounding, skipping.

use bytemuck::Zeroable;
use tisserand_kernels::ops::adamw::{self, AdamwParams, reference};
use tisserand_kernels::ops::philox::{self, GlobalIndex};
use tisserand_kernels::ops::step_scalars::{StepScalars, WORDS};
use tisserand_kernels::testing::{
    assert_close, bits, download, normal_f64, poisoned, rms, tolerance, upload, upload_as,
};
use tisserand_kernels::{Block, Context, Cpu, DType};

const LEN: usize = 5003;
const LR: f32 = 0.01;

fn context(threads: usize) -> Context<Cpu> {
    Context::new(Cpu::new(threads).unwrap(), 64 << 20).unwrap()
}

fn params() -> AdamwParams {
    let tensor_key = philox::tensor_key("model.embed_tokens.weight");
    AdamwParams { lr_scale: 0.5, eps: 1e-8, weight_decay: 0.1, tensor_key, index: GlobalIndex::contiguous(0) }
}

/// Scalars of an update after `updates - 1` others, with gradients scaled down.
fn scalars(updates: u32) -> StepScalars {
    let mut scalars = StepScalars {
        lr: LR,
        loss_scale: 1.0,
        max_grad_norm: 1.0,
        beta1: 0.9,
        beta2: 0.95,
        step: updates + 10,
        seed_low: 3,
        max_skipped: 3,
        num_updates: updates - 1,
        ..StepScalars::zeroed()
    };
    scalars.finish(4.0, [1.0, 0.0]);
    scalars
}

/// Element types of master weights, moments and compute copy.
#[derive(Clone, Copy, Debug)]
struct DTypes {
    master: DType,
    moments: DType,
    weights: DType,
}

fn all_dtypes() -> impl Iterator<Item = DTypes> {
    let floats = [DType::F32, DType::Bf16];
    floats.into_iter().flat_map(move |master| {
        floats.into_iter().flat_map(move |moments| floats.map(|weights| DTypes { master, moments, weights }))
    })
}

struct State {
    master: Block<Cpu>,
    m: Block<Cpu>,
    v: Block<Cpu>,
    weights: Block<Cpu>,
}

impl State {
    /// Numbers that bf16 holds exactly; `v` is not negative.
    fn new(ctx: &Context<Cpu>, dtypes: DTypes) -> Self {
        let [p, m, v] = start();
        State {
            master: upload_as(ctx, dtypes.master, &p),
            m: upload_as(ctx, dtypes.moments, &m),
            v: upload_as(ctx, dtypes.moments, &v),
            weights: poisoned(ctx, dtypes.weights, [LEN]),
        }
    }

    fn update(&mut self, ctx: &Context<Cpu>, scalars: StepScalars, grad: &[f64]) {
        self.update_range(ctx, scalars, grad, 0..LEN);
    }

    fn update_range(
        &mut self,
        ctx: &Context<Cpu>,
        scalars: StepScalars,
        grad: &[f64],
        range: std::ops::Range<usize>,
    ) {
        let (start, len) = (range.start, range.len());
        let params = AdamwParams { index: GlobalIndex::contiguous(start as u64), ..params() };
        let (scalars, grad) = (upload(ctx, &scalars.to_words()), upload_as(ctx, DType::F32, grad));
        adamw::update(
            ctx,
            &params,
            scalars.view([WORDS]),
            grad.range(start, [len]),
            self.master.range_mut(start, [len]),
            self.m.range_mut(start, [len]),
            self.v.range_mut(start, [len]),
            self.weights.range_mut(start, [len]),
        )
        .unwrap();
    }

    fn bits(&self, ctx: &Context<Cpu>) -> [Vec<u32>; 4] {
        [&self.master, &self.m, &self.v, &self.weights].map(|block| bits(ctx, block))
    }
}

fn start() -> [Vec<f64>; 3] {
    [normal_f64(1, LEN), normal_f64(2, LEN), normal_f64(3, LEN).iter().map(|v| v.abs()).collect()]
}

fn hyper() -> reference::Hyper {
    let beta = |beta: f32| f64::from(beta);
    reference::Hyper {
        lr: f64::from(LR) * 0.5,
        beta1: beta(0.9),
        beta2: beta(0.95),
        eps: 1e-8,
        weight_decay: f64::from(0.1_f32),
    }
}

/// The reference's gradient: the op clips by itself.
fn clipped(grad: &[f64], scalars: &StepScalars) -> Vec<f64> {
    grad.iter().map(|g| g * f64::from(scalars.clip_factor)).collect()
}

#[test]
fn several_steps_in_f32_equal_the_reference() {
    let ctx = context(2);
    let f32s = DTypes { master: DType::F32, moments: DType::F32, weights: DType::F32 };
    let mut state = State::new(&ctx, f32s);
    let [mut p, mut m, mut v] = start();
    const STEPS: u32 = 8;
    for count in 1..=STEPS {
        let (grad, scalars) = (normal_f64(u64::from(count) + 10, LEN), scalars(count));
        state.update(&ctx, scalars, &grad);
        reference::update(hyper(), count as i32, &clipped(&grad, &scalars), &mut p, &mut m, &mut v);
    }
    let bound = tolerance(DType::F32, STEPS as usize);
    for (name, block, want) in [("p", &state.master, &p), ("m", &state.m, &m), ("v", &state.v, &v)] {
        assert_close(name, &download(&ctx, block), want, rms(want), bound);
    }
    assert_eq!(bits(&ctx, &state.weights), bits(&ctx, &state.master));
}

#[test]
fn one_step_of_every_dtype_equals_the_reference() {
    let ctx = context(2);
    let (grad, scalars) = (normal_f64(9, LEN), scalars(4));
    let [mut p, mut m, mut v] = start();
    reference::update(hyper(), 4, &clipped(&grad, &scalars), &mut p, &mut m, &mut v);
    for dtypes in all_dtypes() {
        let mut state = State::new(&ctx, dtypes);
        state.update(&ctx, scalars, &grad);
        let check = |name: &str, block: &Block<Cpu>, want: &[f64], dtype| {
            let name = format!("{name} {dtypes:?}");
            // Rounding is relative to the value: only f32 has the scale of the terms as its unit.
            let (scale, f32_bound) = (rms(want), tolerance(DType::F32, 4));
            let storage = if dtype == DType::Bf16 { DType::Bf16.epsilon() } else { 0.0 };
            let slack: Vec<f64> =
                want.iter().map(|w| storage * w.abs() + f32_bound * (w.abs() + scale)).collect();
            for ((got, want), slack) in download(&ctx, block).iter().zip(want).zip(slack) {
                let error = (f64::from(*got) - want).abs();
                assert!(error <= slack, "{name}: {got}, expected {want}");
            }
        };
        check("master", &state.master, &p, dtypes.master);
        check("m", &state.m, &m, dtypes.moments);
        check("v", &state.v, &v, dtypes.moments);
        let stored: Vec<f64> = download(&ctx, &state.master).iter().map(|p| f64::from(*p)).collect();
        let copy = upload_as(&ctx, dtypes.weights, &stored);
        assert_eq!(bits(&ctx, &state.weights), bits(&ctx, &copy), "weights {dtypes:?}");
    }
}

#[test]
fn bf16_state_is_the_f32_result_rounded_by_the_documented_noise() {
    let ctx = context(2);
    let run = |dtype| {
        let mut state = State::new(&ctx, DTypes { master: dtype, moments: dtype, weights: dtype });
        // Slices that begin inside a block of noise.
        for range in [0..3, 3..1030, 1030..LEN] {
            state.update_range(&ctx, scalars(4), &normal_f64(9, LEN), range);
        }
        [state.master, state.m, state.v]
    };
    let (exact, rounded, scalars) = (run(DType::F32), run(DType::Bf16), scalars(4));
    for ((exact, rounded), key) in exact.iter().zip(&rounded).zip(adamw::rounding_keys(&scalars)) {
        for (i, (exact, rounded)) in download(&ctx, exact).iter().zip(download(&ctx, rounded)).enumerate() {
            let noise = philox::rounding_noise(key, params().tensor_key, i as u64);
            let want = philox::round_stochastic(*exact, noise).to_f32();
            assert_eq!(rounded.to_bits(), want.to_bits(), "element {i}");
        }
    }
}

#[test]
fn slices_have_the_bits_of_the_whole() {
    let ctx = context(2);
    let grad = normal_f64(9, LEN);
    for dtypes in all_dtypes() {
        let (mut whole, mut sliced) = (State::new(&ctx, dtypes), State::new(&ctx, dtypes));
        for count in 1..4 {
            whole.update(&ctx, scalars(count), &grad);
            for range in [0..1, 1..1000, 1000..3333, 3333..LEN] {
                sliced.update_range(&ctx, scalars(count), &grad, range);
            }
        }
        assert_eq!(sliced.bits(&ctx), whole.bits(&ctx), "{dtypes:?}");
    }
}

#[test]
fn a_skipped_step_touches_nothing() {
    let ctx = context(2);
    for dtypes in all_dtypes() {
        let mut state = State::new(&ctx, dtypes);
        let before = state.bits(&ctx);
        let mut scalars = scalars(3);
        scalars.finish(f32::NAN, [1.0, 0.0]);
        state.update(&ctx, scalars, &vec![f64::NAN; LEN]);
        assert_eq!(state.bits(&ctx), before, "{dtypes:?}");
    }
}

#[test]
fn updates_too_small_for_bf16_are_kept_on_average() {
    let ctx = context(2);
    let run = |dtype| {
        let mut state = State::new(&ctx, DTypes { master: dtype, moments: DType::F32, weights: dtype });
        for count in 1..=30 {
            let scalars = StepScalars { lr: 1e-4, ..scalars(count) };
            state.update(&ctx, scalars, &vec![1.0; LEN]);
        }
        download(&ctx, &state.master)
    };
    let (exact, rounded, start) = (run(DType::F32), run(DType::Bf16), &start()[0]);
    let errors: Vec<f64> = exact.iter().zip(&rounded).map(|(e, r)| f64::from(r - e)).collect();
    let mean = errors.iter().sum::<f64>() / LEN as f64;
    let moved = exact.iter().zip(start).map(|(e, s)| f64::from(*e) - s).sum::<f64>() / LEN as f64;
    let standard_error = rms(&errors) / (LEN as f64).sqrt();
    assert!(mean.abs() < 5.0 * standard_error, "mean error {mean}, standard error {standard_error}");
    assert!(mean.abs() < 0.2 * moved.abs(), "mean error {mean} of a movement of {moved}");
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let bf16s = DTypes { master: DType::Bf16, moments: DType::Bf16, weights: DType::Bf16 };
    let run = |threads| {
        let ctx = context(threads);
        let mut state = State::new(&ctx, bf16s);
        for count in 1..3 {
            state.update(&ctx, scalars(count), &normal_f64(9, LEN));
        }
        // More than one task.
        let len = 100_003;
        let [mut p, mut m, mut v] = [1, 2, 3].map(|s| upload_as(&ctx, DType::F32, &vec![f64::from(s); len]));
        let (grad, mut weights) =
            (upload_as(&ctx, DType::F32, &normal_f64(4, len)), poisoned(&ctx, DType::F32, [len]));
        let scalars = upload(&ctx, &scalars(2).to_words());
        let views = (p.view_mut([len]), m.view_mut([len]), v.view_mut([len]), weights.view_mut([len]));
        let (scalars, grad) = (scalars.view([WORDS]), grad.view([len]));
        adamw::update(&ctx, &params(), scalars, grad, views.0, views.1, views.2, views.3).unwrap();
        (state.bits(&ctx), bits(&ctx, &p), bits(&ctx, &weights))
    };
    let one = run(1);
    for threads in [2, 3, 8] {
        assert!(run(threads) == one, "{threads} threads");
    }
}

#[test]
fn a_wrong_shape_or_dtype_is_refused_by_name() {
    let ctx = context(1);
    let scalars = upload(&ctx, &scalars(1).to_words());
    let grad = upload_as(&ctx, DType::F32, &[0.0; 4]);
    let refuse = |master: usize, v: DType| {
        let (mut p, mut weights) = (poisoned(&ctx, DType::F32, [master]), poisoned(&ctx, DType::Bf16, [4]));
        let (mut m, mut v) = (poisoned(&ctx, DType::F32, [4]), poisoned(&ctx, v, [4]));
        let (p, weights) = (p.view_mut([master]), weights.view_mut([4]));
        let (scalars, grad) = (scalars.view([WORDS]), grad.view([4]));
        adamw::update(&ctx, &params(), scalars, grad, p, m.view_mut([4]), v.view_mut([4]), weights)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(refuse(3, DType::F32), "adamw::update: `master` has shape [3], expected [4]");
    assert_eq!(refuse(4, DType::Bf16), "adamw::update: `v` has dtype bf16, expected f32");
}
