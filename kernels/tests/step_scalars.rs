//! The decision about the update: norm, clipping, bias corrections, skipped steps, failure.

use bytemuck::Zeroable;
use tisserand_kernels::ops::step_scalars::{self, INPUT_WORDS, LOSS_SCALE_WORD, StepScalars, WORDS};
use tisserand_kernels::testing::upload;
use tisserand_kernels::{Class, Context, Cpu, DType, Storage};

fn context() -> Context<Cpu> {
    Context::new(Cpu::new(1).unwrap(), 1 << 20).unwrap()
}

fn scalars() -> StepScalars {
    StepScalars {
        lr: 1e-3,
        loss_scale: 0.25,
        max_grad_norm: 1.0,
        beta1: 0.9,
        beta2: 0.999,
        step: 1,
        seed_low: 0x89ab_cdef,
        seed_high: 0x0123_4567,
        max_skipped: 3,
        ..StepScalars::zeroed()
    }
}

/// Runs the op on the device.
fn finish(scalars: StepScalars, sum_of_squares: f32, loss_sums: [f32; 2]) -> StepScalars {
    let ctx = context();
    let mut block = upload(&ctx, &scalars.to_words());
    let (sum, losses) = (upload(&ctx, &[sum_of_squares]), upload(&ctx, &loss_sums));
    step_scalars::finish(&ctx, sum.view([1]), losses.view([2]), block.view_mut([WORDS])).unwrap();
    let mut words = [0; WORDS];
    ctx.device.download(block.view([WORDS]), &mut words).unwrap();
    StepScalars::from_words(words)
}

#[test]
fn inputs_come_first_and_the_loss_scale_is_one_of_them() {
    let words = scalars().to_words();
    assert_eq!((INPUT_WORDS, WORDS), (9, 21));
    assert_eq!(words[LOSS_SCALE_WORD], 0.25_f32.to_bits());
    assert_eq!(scalars().input_words()[..], words[..INPUT_WORDS]);
    assert!(words[INPUT_WORDS..].iter().all(|word| *word == 0));
    assert_eq!(scalars().seed(), 0x0123_4567_89ab_cdef);
    assert_eq!(StepScalars::from_words(words), scalars());
    let ctx = context();
    let mut block = ctx.arena.block(Class::Constants, DType::U32, WORDS).unwrap();
    ctx.device.upload(&words, block.view_mut([WORDS])).unwrap();
    let loss_scale = block.range(LOSS_SCALE_WORD, [1]).reinterpret(DType::F32);
    assert_eq!(loss_scale.as_slice::<f32>(), [0.25]);
}

#[test]
fn a_finite_step_is_applied() {
    let after = finish(scalars(), 16.0, [12.0, 2.0]);
    let want = StepScalars {
        num_updates: 1,
        grad_norm: 4.0,
        clip_factor: 1.0 / (4.0 + 1e-6),
        bias_correction1: (1.0 - f64::from(0.9_f32)) as f32,
        bias_correction2: (1.0 - f64::from(0.999_f32)) as f32,
        update: 1,
        loss: 3.0,
        z_loss: 0.5,
        ..scalars()
    };
    assert_eq!(after, want);
}

#[test]
fn gradients_are_never_scaled_up_and_infinity_means_no_clipping() {
    assert_eq!(finish(scalars(), 0.25, [1.0, 0.0]).clip_factor, 1.0);
    assert_eq!(finish(scalars(), 0.0, [1.0, 0.0]).clip_factor, 1.0);
    let unlimited = StepScalars { max_grad_norm: f32::INFINITY, ..scalars() };
    assert_eq!(finish(unlimited, 1e30, [1.0, 0.0]).clip_factor, 1.0);
}

#[test]
fn bias_corrections_are_accurate_at_any_count() {
    for updates in [1, 2, 3, 7, 100, 1000, 12_345, 1_000_000] {
        let before = StepScalars { num_updates: updates - 1, ..scalars() };
        let after = finish(before, 1.0, [1.0, 0.0]);
        assert_eq!(after.num_updates, updates);
        for (got, beta) in [(after.bias_correction1, 0.9_f32), (after.bias_correction2, 0.999)] {
            let want = -(f64::from(beta).ln() * f64::from(updates)).exp_m1();
            assert!((f64::from(got) / want - 1.0).abs() < 1e-7, "{got} after {updates}, expected {want}");
        }
    }
}

#[test]
fn what_is_not_finite_skips_the_step() {
    let (nan, infinity) = (f32::NAN, f32::INFINITY);
    for (sum, loss) in
        [(nan, 1.0), (infinity, 1.0), (1.0, nan), (1.0, infinity), (1.0, -infinity), (nan, nan)]
    {
        let after = finish(StepScalars { num_updates: 4, ..scalars() }, sum, [loss, 0.0]);
        let counters =
            (after.num_updates, after.skipped_total, after.skipped_in_row, after.first_skipped_step);
        assert_eq!((after.update, after.clip_factor, after.failed), (0, 0.0, 0), "{sum} {loss}");
        assert_eq!(counters, (4, 1, 1, 1), "{sum} {loss}");
    }
}

#[test]
fn a_row_of_skipped_steps_fails_the_run_for_ever() {
    let mut now = scalars();
    let mut step = |step, sum| {
        now = finish(StepScalars { step, ..now }, sum, [1.0, 0.0]);
        (now.update, now.skipped_in_row, now.first_skipped_step, now.failed)
    };
    assert_eq!(step(1, 1.0), (1, 0, 0, 0));
    assert_eq!(step(2, f32::NAN), (0, 1, 2, 0));
    assert_eq!(step(3, f32::NAN), (0, 2, 2, 0));
    assert_eq!(step(4, 1.0), (1, 0, 2, 0));
    assert_eq!(step(5, f32::NAN), (0, 1, 5, 0));
    assert_eq!(step(6, f32::INFINITY), (0, 2, 5, 0));
    assert_eq!(step(7, f32::NAN), (0, 3, 5, 1));
    assert_eq!(step(8, 1.0), (0, 4, 5, 1));
    assert_eq!((now.num_updates, now.skipped_total), (2, 6));
}

#[test]
fn a_wrong_shape_or_dtype_is_refused_by_name() {
    let ctx = context();
    let (sum, losses) = (upload(&ctx, &[1.0_f32]), upload(&ctx, &[1.0_f32, 2.0]));
    let mut floats = upload(&ctx, &[0.0_f32; WORDS]);
    let error = step_scalars::finish(&ctx, sum.view([1]), losses.view([2]), floats.view_mut([WORDS]));
    assert_eq!(error.unwrap_err().to_string(), "step_scalars::finish: `scalars` has dtype f32, expected u32");
    let error = step_scalars::finish(&ctx, sum.view([1]), sum.view([1]), floats.view_mut([WORDS]));
    assert_eq!(
        error.unwrap_err().to_string(),
        "step_scalars::finish: `loss_sums` has shape [1], expected [2]"
    );
}
