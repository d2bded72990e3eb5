//! The decision about the update: every word has the bits of the CPU device, over rows of good and bad steps.

use bytemuck::Zeroable;
use tisserand_kernels::ops::step_scalars::{self, StepScalars, WORDS};
use tisserand_kernels::testing::upload;
use tisserand_kernels::{Context, Device};

use crate::support::{cpu, for_each_setting, with_warps_of_64};

/// Every word is another number, so that none can stand for its neighbour.
fn start(num_updates: u32, max_skipped: u32, max_grad_norm: f32) -> StepScalars {
    StepScalars {
        lr: 1e-3,
        loss_scale: 0.3,
        max_grad_norm,
        beta1: 0.9,
        beta2: 0.999,
        step: 12,
        seed_low: 0x89ab_cdef,
        seed_high: 0x0123_4567,
        max_skipped,
        num_updates,
        skipped_total: 5,
        ..StepScalars::zeroed()
    }
}

/// The words after each of these steps, one after the other.
fn finish<D: Device>(ctx: &Context<D>, start: StepScalars, steps: &[(f32, [f32; 2])]) -> Vec<[u32; WORDS]> {
    let mut block = upload(ctx, &start.to_words());
    let step = |&(sum_of_squares, loss_sums): &(f32, [f32; 2])| {
        let (sum, losses) = (upload(ctx, &[sum_of_squares]), upload(ctx, &loss_sums));
        step_scalars::finish(ctx, sum.view([1]), losses.view([2]), block.view_mut([WORDS])).unwrap();
        let mut words = [0; WORDS];
        ctx.device.download(block.view([WORDS]), &mut words).unwrap();
        // The next step begins with another number.
        let next = StepScalars::from_words(words);
        ctx.device
            .upload(&StepScalars { step: next.step + 1, ..next }.to_words(), block.view_mut([WORDS]))
            .unwrap();
        words
    };
    steps.iter().map(step).collect()
}

#[test]
fn every_word_has_the_bits_of_the_cpu() {
    let (nan, infinity) = (f32::NAN, f32::INFINITY);
    let good = (17.3, [12.1, 2.7]);
    let rows: [&[(f32, [f32; 2])]; 5] = [
        &[good, (1e-12, [0.0, 0.0]), (0.0, [3.3, 0.1])],
        &[good, (infinity, [1.0, 1.0]), good, (1.0, [infinity, 1.0]), (1.0, [-infinity, 1.0])],
        &[(infinity, [1.0, 0.0]), (infinity, [1.0, 0.0]), (infinity, [2.0, 0.0]), good, good],
        &[(3e38, [1e38, 3e38])],
        &[(1e-40, [1e-40, 1e-44])],
    ];
    let starts = [0, 1, 2, 999, 1_000_000, u32::MAX - 9].into_iter().flat_map(|updates| {
        [(0, 1.0), (1, infinity), (3, 0.01)].map(|(max, norm)| start(updates, max, norm))
    });
    let starts: Vec<StepScalars> = starts.collect();
    let compare = |ctx: &Context<crate::support::Dev>| {
        for (start, steps) in starts.iter().flat_map(|start| rows.map(|steps| (*start, steps))) {
            assert_eq!(finish(ctx, start, steps), finish(&cpu(), start, steps), "{start:?} {steps:?}");
        }
    };
    for_each_setting(compare);
    with_warps_of_64(compare);
    // What is not a number has no certain bits, but skips as well.
    for_each_setting(|ctx| {
        for bad in [(nan, [1.0, 1.0]), (-1.0, [1.0, 1.0]), (1.0, [nan, 1.0])] {
            let [got] = finish(ctx, start(4, 3, 1.0), &[bad])[..] else { panic!("one step") };
            let got = StepScalars::from_words(got);
            let skipped = (got.update, got.clip_factor, got.num_updates, got.skipped_in_row);
            assert_eq!(skipped, (0, 0.0, 4, 1), "{bad:?}");
        }
    });
}
