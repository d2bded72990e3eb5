//! Host programs that forget an event, read what is not there, or go on after a fault: each is caught by the emulated
//! device, some by one setting only.

use std::time::Duration;

use tisserand_kernels::cuda::driver::emulated::{Completion, Emulated, HostWaits, Settings};
use tisserand_kernels::ops::elementwise::{self, fill};
use tisserand_kernels::testing::{download, upload};
use tisserand_kernels::{Context, Cuda, KernelError, Result, Storage};

use crate::streams::{LEN, Waits, block, copy, fork, producer_and_consumer, read, slot_used_twice};
use crate::support::{Dev, context, for_each_setting};

fn completing(completion: Completion) -> Context<Dev> {
    context(Settings { completion, ..Settings::default() })
}

fn message<T>(result: Result<T>) -> String {
    match result {
        Err(KernelError::Device(message)) => message,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("the mistake was not seen"),
    }
}

#[test]
fn a_consumer_that_lacks_a_wait_reads_what_was_never_written() {
    assert!(
        producer_and_consumer(&completing(Completion::Early), Waits::No).is_ok(),
        "early hides the mistake"
    );
    let message = message(producer_and_consumer(&completing(Completion::Late), Waits::No));
    assert!(message.contains("download of the bytes 4096..8096: byte 4096 was not written"), "{message}");
}

#[test]
fn a_kernel_that_lacks_a_wait_is_reported_by_its_name() {
    let ctx = completing(Completion::Late);
    let other = fork(&ctx);
    let (mut x, mut y) = (block(&ctx), block(&ctx));
    other.device.wait(&ctx.device.event().unwrap()).unwrap();
    fill(&ctx, 2.0, x.view_mut([LEN])).unwrap();
    elementwise::cast(&other, x.view([LEN]), y.view_mut([LEN])).unwrap();
    let message = message(other.device.synchronize());
    assert!(message.contains("cast_f32_f32"), "{message}");
}

#[test]
fn a_slot_that_is_overwritten_too_early_shows_on_a_device_of_mixed_streams() {
    let (late, mixed) = (completing(Completion::Late), completing(Completion::Mixed(0b10)));
    assert_eq!(slot_used_twice(&late, Waits::No), [1.0; LEN], "late hides the mistake");
    assert_eq!(slot_used_twice(&mixed, Waits::No), [2.0; LEN]);
}

#[test]
fn a_block_dropped_while_another_stream_needs_it_is_lost() {
    let ctx = completing(Completion::Mixed(0b01));
    let other = fork(&ctx);
    let (mut x, mut y) = (block(&ctx), block(&ctx));
    fill(&ctx, 2.0, x.view_mut([LEN])).unwrap();
    other.device.wait(&ctx.device.event().unwrap()).unwrap();
    copy(&other, &x, &mut y).unwrap();
    drop(x);
    let message = message(read(&other, &y));
    assert!(message.contains("was not written"), "{message}");
}

#[test]
fn an_event_is_the_point_where_it_was_made() {
    let ctx = completing(Completion::Late);
    let other = fork(&ctx);
    let (mut x, mut y) = (block(&ctx), block(&ctx));
    fill(&ctx, 1.0, x.view_mut([LEN])).unwrap();
    let event = ctx.device.event().unwrap();
    fill(&ctx, 2.0, x.view_mut([LEN])).unwrap();
    other.device.wait(&event).unwrap();
    copy(&other, &x, &mut y).unwrap();
    assert_eq!(read(&other, &y).unwrap(), [1.0; LEN]);
    assert_eq!(read(&ctx, &x).unwrap(), [2.0; LEN]);
}

#[test]
fn what_a_block_held_before_is_not_downloaded() {
    for_each_setting(|ctx| {
        let old = upload(ctx, &[1.0_f32; LEN]);
        drop(old);
        let mut x = block(ctx);
        ctx.device.zero(x.range_mut(0, [LEN - 1])).unwrap();
        let message = message(read(ctx, &x));
        let expected = "download of the bytes 0..4000: byte 3996 was not written since its block was made";
        assert_eq!(message, expected);
        // A refusal is not a fault: the device goes on.
        ctx.device.zero(x.range_mut(LEN - 1, [1])).unwrap();
        assert_eq!(download(ctx, &x), [0.0; LEN]);
    });
}

#[test]
fn a_device_that_has_failed_refuses_all_further_work() {
    for_each_setting(|ctx| {
        let other = fork(ctx);
        let (x, mut y) = (block(ctx), block(ctx));
        let failed = elementwise::cast(ctx, x.view([LEN]), y.view_mut([LEN])).and(ctx.device.synchronize());
        let first = message(failed);
        assert!(first.contains("cast_f32_f32"), "{first}");
        let expected = format!("the emulated device has failed before: {first}");
        assert_eq!(message(fill(ctx, 1.0, y.view_mut([LEN]))), expected);
        assert_eq!(message(ctx.device.synchronize()), expected);
        assert_eq!(message(other.device.synchronize()), expected);
        assert_eq!(message(read(&other, &y)), expected);
    });
}

#[test]
fn devices_reach_each_other_and_fail_one_by_one() {
    let (ctx, peer) = (completing(Completion::Late), completing(Completion::Late));
    let (mut x, mut y, mut z) = (block(&ctx), block(&peer), block(&ctx));
    fill(&ctx, 3.0, x.view_mut([LEN])).unwrap();
    peer.device.wait(&ctx.device.event().unwrap()).unwrap();
    copy(&peer, &x, &mut y).unwrap();
    ctx.device.wait(&peer.device.event().unwrap()).unwrap();
    copy(&ctx, &y, &mut z).unwrap();
    assert_eq!(read(&ctx, &z).unwrap(), [3.0; LEN]);

    let nothing = block(&peer);
    elementwise::cast(&peer, nothing.view([LEN]), y.view_mut([LEN])).unwrap();
    ctx.device.wait(&peer.device.event().unwrap()).unwrap();
    assert!(message(ctx.device.synchronize()).contains("cast_f32_f32"));
    assert!(message(peer.device.synchronize()).contains("has failed before"));
}

#[test]
fn a_moment_has_no_time_until_its_stream_comes_to_it() {
    let ctx = completing(Completion::Late);
    let (begin, pause) = (ctx.device.moment().unwrap(), Duration::from_millis(20));
    ctx.device.driver().stall(pause).unwrap();
    let end = ctx.device.moment().unwrap();
    assert_eq!(ctx.device.elapsed(&begin, &end).unwrap(), None);
    assert_eq!(ctx.device.reached_at(&begin).unwrap(), None);
    ctx.device.synchronize().unwrap();
    assert!(ctx.device.elapsed(&begin, &end).unwrap().unwrap() >= pause);
}

#[test]
fn waits_of_the_host_are_counted_on_all_streams() {
    let ctx = completing(Completion::Late);
    let other = fork(&ctx);
    let mut x = block(&ctx);
    fill(&ctx, 1.0, x.view_mut([LEN])).unwrap();
    let event = ctx.device.event().unwrap();
    other.device.wait(&event).unwrap();
    assert_eq!(ctx.device.driver().host_waits(), HostWaits::default());
    read(&ctx, &x).unwrap();
    other.device.synchronize().unwrap();
    assert_eq!(ctx.device.driver().host_waits(), HostWaits { synchronizations: 1, downloads: 1 });
}

#[test]
fn counters_count_kernels_that_have_run() {
    let settings = Settings { count_accesses: true, completion: Completion::Late, ..Settings::default() };
    let device = Emulated::new(settings);
    let ctx = Context::new(Cuda::new(device.clone()), 1 << 20).unwrap();
    let mut x = block(&ctx);
    fill(&ctx, 1.0, x.view_mut([LEN])).unwrap();
    assert_eq!(device.counters(), Default::default());
    ctx.device.synchronize().unwrap();
    let counted = device.take_counters();
    assert_ne!(counted, Default::default());
    assert_eq!(device.counters(), Default::default());
}
