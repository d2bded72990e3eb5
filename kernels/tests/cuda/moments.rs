//! Points of a stream that know when they were reached.

use std::time::{Duration, Instant};

use tisserand_kernels::Storage;
use tisserand_kernels::ops::elementwise::fill;

use crate::streams::{LEN, block, fork};
use crate::support::for_each_setting;

/// How well the clocks of a GPU and of the host are compared.
const TOLERANCE: Duration = Duration::from_millis(2);

#[test]
fn moments_have_times_in_the_order_of_their_stream() {
    for_each_setting(|ctx| {
        let mut x = block(ctx);
        let before = Instant::now();
        let moments: Vec<_> = (0..100)
            .map(|_| {
                let moment = ctx.device.moment().unwrap();
                fill(ctx, 1.0, x.view_mut([LEN])).unwrap();
                moment
            })
            .collect();
        ctx.device.synchronize().unwrap();
        let after = Instant::now();
        let times: Vec<_> =
            moments.iter().map(|moment| ctx.device.reached_at(moment).unwrap().unwrap()).collect();
        assert!(times[0] + TOLERANCE >= before && times[99] <= after + TOLERANCE);
        assert!(times.is_sorted());
        let between = |from, to| ctx.device.elapsed(&moments[from], &moments[to]).unwrap().unwrap();
        let sum: Duration = (0..99).map(|i| between(i, i + 1)).sum();
        assert!(sum.abs_diff(between(0, 99)) < TOLERANCE, "{sum:?}");
        assert_eq!(between(99, 0), Duration::ZERO);
    });
}

#[test]
fn a_stream_that_waits_shows_for_how_long() {
    for_each_setting(|ctx| {
        let other = fork(ctx);
        let mut x = block(ctx);
        other.device.wait(&ctx.device.event().unwrap()).unwrap();
        let begin = ctx.device.moment().unwrap();
        let other_begin = other.device.moment().unwrap();
        (0..200).for_each(|_| fill(&other, 1.0, x.view_mut([LEN])).unwrap());
        let other_end = other.device.moment().unwrap();
        ctx.device.wait(&other.device.event().unwrap()).unwrap();
        let end = ctx.device.moment().unwrap();
        ctx.device.synchronize().unwrap();
        let between = |from, to| ctx.device.elapsed(from, to).unwrap().unwrap();
        assert!(between(&other_begin, &other_end) > Duration::ZERO);
        let (waited, needed) = (between(&begin, &end), between(&begin, &other_end));
        assert!(waited + TOLERANCE >= needed, "{waited:?} for {needed:?}");
    });
}

#[test]
fn a_moment_that_is_dropped_early_does_no_harm_to_the_next() {
    for_each_setting(|ctx| {
        let first = ctx.device.moment().unwrap();
        (0..1000).for_each(|_| drop(ctx.device.moment().unwrap()));
        let last = ctx.device.moment().unwrap();
        ctx.device.synchronize().unwrap();
        assert!(ctx.device.elapsed(&first, &last).unwrap().unwrap() > Duration::ZERO);
    });
}
