//! The order of work: on one handle as queued, between handles by events only. Host programs that forget an
//! event, or go on after a fault, are caught by the emulated device, each by the setting that is meant for it.

use std::sync::mpsc::channel;

use tisserand_kernels::cuda::driver::emulated::{Completion, Emulated, Settings};
use tisserand_kernels::ops::elementwise::{self, fill};
use tisserand_kernels::testing::{download, upload};
use tisserand_kernels::{Block, Class, Context, Cuda, DType, KernelError, Result, Storage};

use crate::support::{Dev, context, for_each_setting};

const LEN: usize = 1000;

fn completing(completion: Completion) -> Context<Dev> {
    context(Settings { completion, ..Settings::default() })
}

fn block<D: Storage>(ctx: &Context<D>) -> Block<D> {
    ctx.arena.block(Class::Activations, DType::F32, LEN).unwrap()
}

/// The same memory on another stream.
fn fork<D: Storage>(ctx: &Context<D>) -> Context<D> {
    Context { device: ctx.device.fork().unwrap(), arena: ctx.arena.clone() }
}

fn copy<D: Storage>(ctx: &Context<D>, src: &Block<D>, dst: &mut Block<D>) -> Result<()> {
    ctx.device.copy(src.view([LEN]), dst.view_mut([LEN]))
}

fn read<D: Storage>(ctx: &Context<D>, src: &Block<D>) -> Result<Vec<f32>> {
    let mut values = vec![0.0; LEN];
    ctx.device.download(src.view([LEN]), &mut values)?;
    Ok(values)
}

fn message<T>(result: Result<T>) -> String {
    match result {
        Err(KernelError::Device(message)) => message,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("the mistake was not seen"),
    }
}

/// Fills `x` on one stream and copies it on another, with or without a wait in between.
fn producer_and_consumer(completion: Completion, waits: bool) -> Result<Vec<f32>> {
    let ctx = completing(completion);
    let other = fork(&ctx);
    let (mut x, mut y) = (block(&ctx), block(&ctx));
    // The consumer has something else to do first, on memory that the first stream has given up before.
    other.device.wait(&ctx.device.event()?)?;
    fill(&ctx, 2.0, x.view_mut([LEN]))?;
    if waits {
        other.device.wait(&ctx.device.event()?)?;
    }
    copy(&other, &x, &mut y)?;
    read(&other, &y)
}

#[test]
fn a_consumer_that_waits_for_its_event_reads_what_was_produced() {
    for completion in [Completion::Early, Completion::Late, Completion::Mixed(0b01), Completion::Mixed(0b10)]
    {
        assert_eq!(producer_and_consumer(completion, true).unwrap(), [2.0; LEN], "{completion:?}");
    }
}

#[test]
fn a_consumer_that_lacks_a_wait_reads_what_was_never_written() {
    assert!(producer_and_consumer(Completion::Early, false).is_ok(), "early hides the mistake");
    let message = message(producer_and_consumer(Completion::Late, false));
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

/// A slot that is filled a second time while its first contents are still to be read.
fn slot_used_twice(completion: Completion, waits: bool) -> Vec<f32> {
    let ctx = completing(completion);
    let gathers = fork(&ctx);
    let (mut slot, mut out) = (block(&ctx), block(&ctx));
    gathers.device.wait(&ctx.device.event().unwrap()).unwrap();
    fill(&gathers, 1.0, slot.view_mut([LEN])).unwrap();
    ctx.device.wait(&gathers.device.event().unwrap()).unwrap();
    copy(&ctx, &slot, &mut out).unwrap();
    if waits {
        gathers.device.wait(&ctx.device.event().unwrap()).unwrap();
    }
    fill(&gathers, 2.0, slot.view_mut([LEN])).unwrap();
    read(&ctx, &out).unwrap()
}

#[test]
fn a_slot_that_is_overwritten_too_early_shows_on_a_device_of_mixed_streams() {
    let mixed = Completion::Mixed(0b10);
    assert_eq!(slot_used_twice(Completion::Late, false), [1.0; LEN], "late hides the mistake");
    assert_eq!(slot_used_twice(mixed, false), [2.0; LEN]);
    assert_eq!(slot_used_twice(mixed, true), [1.0; LEN]);
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
fn a_block_dropped_by_the_host_lives_until_queued_work_has_read_it() {
    for_each_setting(|ctx| {
        let mut y = block(ctx);
        let x = upload(ctx, &[3.0_f32; LEN]);
        copy(ctx, &x, &mut y).unwrap();
        drop(x);
        let mut reused = block(ctx);
        fill(ctx, 4.0, reused.view_mut([LEN])).unwrap();
        assert_eq!(download(ctx, &y), [3.0; LEN]);
    });
}

#[test]
fn an_upload_takes_the_bytes_as_they_are() {
    for_each_setting(|ctx| {
        let mut x = block(ctx);
        let mut values = [5.0_f32; LEN];
        ctx.device.upload(&values, x.view_mut([LEN])).unwrap();
        values.fill(6.0);
        assert_eq!(download(ctx, &x), [5.0; LEN]);
    });
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
fn memory_and_events_of_another_device_are_refused() {
    let (ctx, stranger) = (completing(Completion::Late), completing(Completion::Late));
    let (x, mut y) = (block(&stranger), block(&ctx));
    let message_of_copy = message(copy(&ctx, &x, &mut y));
    assert_eq!(message_of_copy, "work of one emulated device on the memory of another");
    let message = message(ctx.device.wait(&stranger.device.event().unwrap()));
    assert_eq!(message, "one emulated device waits for an event of another");
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

#[test]
fn two_threads_hand_a_block_to_and_fro() {
    for_each_setting(|ctx| {
        const TURNS: usize = 200;
        let other = fork(ctx);
        let (to_other, from_here) = channel();
        let (to_here, from_other) = channel();
        let start = upload(ctx, &[0.0_f32; LEN]);
        let one = upload(ctx, &[1.0_f32; LEN]);
        let add = |ctx: &Context<Dev>, mut x: Block<Dev>| {
            elementwise::add_assign(ctx, one.view([LEN]), x.view_mut([LEN])).unwrap();
            (x, ctx.device.event().unwrap())
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for (x, event) in from_here {
                    other.device.wait(&event).unwrap();
                    // The other end goes when it has had enough.
                    let _ = to_here.send(add(&other, x));
                }
            });
            let mut turn = (start, ctx.device.event().unwrap());
            for _ in 0..TURNS {
                ctx.device.wait(&turn.1).unwrap();
                to_other.send(add(ctx, turn.0)).unwrap();
                turn = from_other.recv().unwrap();
            }
            drop(to_other);
            ctx.device.wait(&turn.1).unwrap();
            assert_eq!(read(ctx, &turn.0).unwrap(), [2.0 * TURNS as f32; LEN]);
        });
    });
}
