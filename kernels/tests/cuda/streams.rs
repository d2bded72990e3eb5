//! The order of work: on one handle as queued, between handles by events only. What a program that forgets an event
//! gets is in [`mistakes`](crate::mistakes).

use std::sync::mpsc::channel;

use tisserand_kernels::ops::elementwise::{self, fill};
use tisserand_kernels::testing::{download, upload};
use tisserand_kernels::{Block, Class, Context, DType, Result, Storage};

use crate::support::{Dev, for_each_setting};

pub(crate) const LEN: usize = 1000;

pub(crate) fn block<D: Storage>(ctx: &Context<D>) -> Block<D> {
    ctx.arena.block(Class::Activations, DType::F32, LEN).unwrap()
}

/// The same memory on another stream.
pub(crate) fn fork<D: Storage>(ctx: &Context<D>) -> Context<D> {
    Context { device: ctx.device.fork().unwrap(), arena: ctx.arena.clone() }
}

pub(crate) fn copy<D: Storage>(ctx: &Context<D>, src: &Block<D>, dst: &mut Block<D>) -> Result<()> {
    ctx.device.copy(src.view([LEN]), dst.view_mut([LEN]))
}

pub(crate) fn read<D: Storage>(ctx: &Context<D>, src: &Block<D>) -> Result<Vec<f32>> {
    let mut values = vec![0.0; LEN];
    ctx.device.download(src.view([LEN]), &mut values)?;
    Ok(values)
}

/// Whether a stream waits for the work of another on which it relies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    Yes,
    #[cfg(feature = "emulator")]
    No,
}

/// Fills a block on one stream and copies it on another.
pub(crate) fn producer_and_consumer(ctx: &Context<Dev>, waits: Waits) -> Result<Vec<f32>> {
    let other = fork(ctx);
    let (mut x, mut y) = (block(ctx), block(ctx));
    // Both blocks are new to the first stream; the other one takes `y` over.
    other.device.wait(&ctx.device.event()?)?;
    fill(ctx, 2.0, x.view_mut([LEN]))?;
    if waits == Waits::Yes {
        other.device.wait(&ctx.device.event()?)?;
    }
    copy(&other, &x, &mut y)?;
    read(&other, &y)
}

/// Fills a slot a second time while its first contents are still to be read.
pub(crate) fn slot_used_twice(ctx: &Context<Dev>, waits: Waits) -> Vec<f32> {
    let gathers = fork(ctx);
    let (mut slot, mut out) = (block(ctx), block(ctx));
    gathers.device.wait(&ctx.device.event().unwrap()).unwrap();
    fill(&gathers, 1.0, slot.view_mut([LEN])).unwrap();
    ctx.device.wait(&gathers.device.event().unwrap()).unwrap();
    copy(ctx, &slot, &mut out).unwrap();
    if waits == Waits::Yes {
        gathers.device.wait(&ctx.device.event().unwrap()).unwrap();
    }
    fill(&gathers, 2.0, slot.view_mut([LEN])).unwrap();
    read(ctx, &out).unwrap()
}

#[test]
fn a_consumer_that_waits_for_its_event_reads_what_was_produced() {
    for_each_setting(|ctx| assert_eq!(producer_and_consumer(ctx, Waits::Yes).unwrap(), [2.0; LEN]));
}

#[test]
fn a_slot_is_used_again_when_its_reader_is_waited_for() {
    for_each_setting(|ctx| assert_eq!(slot_used_twice(ctx, Waits::Yes), [1.0; LEN]));
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

#[test]
fn an_event_may_be_waited_for_long_after_its_like_were_used_again() {
    for_each_setting(|ctx| {
        let other = fork(ctx);
        let (mut x, mut y) = (block(ctx), block(ctx));
        fill(ctx, 3.0, x.view_mut([LEN])).unwrap();
        let event = ctx.device.event().unwrap();
        for _ in 0..1000 {
            ctx.device.event().unwrap();
        }
        other.device.wait(&event).unwrap();
        copy(&other, &x, &mut y).unwrap();
        assert_eq!(read(&other, &y).unwrap(), [3.0; LEN]);
    });
}

#[test]
fn a_large_upload_arrives_whole() {
    for_each_setting(|ctx| {
        // Longer than the pieces in which it travels, and no multiple of them.
        let values: Vec<u32> = (0..700_001).collect();
        let block = upload(ctx, &values);
        let mut back = vec![0; values.len()];
        ctx.device.download(block.view([values.len()]), &mut back).unwrap();
        assert_eq!(back, values);
    });
}

#[test]
fn more_uploads_than_there_are_buffers_keep_their_order() {
    for_each_setting(|ctx| {
        let mut blocks: Vec<_> = (0..100).map(|_| block(ctx)).collect();
        for (i, block) in blocks.iter_mut().enumerate() {
            ctx.device.upload(&[i as f32; LEN], block.view_mut([LEN])).unwrap();
        }
        for (i, block) in blocks.iter().enumerate() {
            assert_eq!(read(ctx, block).unwrap(), [i as f32; LEN]);
        }
    });
}

#[test]
fn zero_writes_its_range_and_no_other() {
    for_each_setting(|ctx| {
        let mut x = upload(ctx, &[1.0_f32; LEN]);
        ctx.device.zero(x.range_mut(3, [5])).unwrap();
        let mut want = [1.0; LEN];
        want[3..8].fill(0.0);
        assert_eq!(download(ctx, &x), want);
    });
}
