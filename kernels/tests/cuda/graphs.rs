//! Work that is recorded and queued again: on the emulator in every setting, and on a GPU.

use tisserand_kernels::ops::elementwise::{self, fill};
use tisserand_kernels::testing::upload;
use tisserand_kernels::{Block, Context, Result, Storage};

use crate::streams::{LEN, block, copy, fork, read};
use crate::support::{Dev, for_each_setting};

type Graph = <Dev as Storage>::Graph;

fn capture(ctx: &Context<Dev>, work: impl FnOnce() -> Result<()>) -> Graph {
    ctx.device.capture(work).unwrap()
}

/// Adds one block to another.
fn add(ctx: &Context<Dev>, x: &Block<Dev>, sum: &mut Block<Dev>) -> Result<()> {
    elementwise::add_assign(ctx, x.view([LEN]), sum.view_mut([LEN]))
}

#[test]
fn what_is_recorded_happens_at_every_replay_and_not_before() {
    for_each_setting(|ctx| {
        let (one, mut sum) = (upload(ctx, &[1.0_f32; LEN]), upload(ctx, &[0.0_f32; LEN]));
        let graph = capture(ctx, || add(ctx, &one, &mut sum));
        assert_eq!(read(ctx, &sum).unwrap(), [0.0; LEN]);
        for replays in 1..=3 {
            ctx.device.replay(&graph).unwrap();
            assert_eq!(read(ctx, &sum).unwrap(), [replays as f32; LEN]);
        }
    });
}

#[test]
fn kernels_copies_and_zeros_keep_their_order() {
    for_each_setting(|ctx| {
        let (mut x, mut y, mut z) = (block(ctx), block(ctx), upload(ctx, &[9.0_f32; LEN]));
        let graph = capture(ctx, || {
            fill(ctx, 2.0, x.view_mut([LEN]))?;
            copy(ctx, &x, &mut y)?;
            fill(ctx, 3.0, x.view_mut([LEN]))?;
            ctx.device.zero(z.view_mut([LEN]))?;
            add(ctx, &y, &mut z)?;
            add(ctx, &x, &mut z)
        });
        for _ in 0..2 {
            ctx.device.replay(&graph).unwrap();
        }
        assert_eq!(read(ctx, &z).unwrap(), [5.0; LEN]);
    });
}

#[test]
fn a_replay_reads_what_was_uploaded_before_it_and_events_mark_its_end() {
    for_each_setting(|ctx| {
        let other = fork(ctx);
        let (mut x, mut y, mut out) = (block(ctx), block(ctx), block(ctx));
        let graph = capture(ctx, || copy(ctx, &x, &mut y));
        for value in [1.0, 2.0, 3.0] {
            ctx.device.upload(&[value; LEN], x.view_mut([LEN])).unwrap();
            ctx.device.replay(&graph).unwrap();
            other.device.wait(&ctx.device.event().unwrap()).unwrap();
            copy(&other, &y, &mut out).unwrap();
            assert_eq!(read(&other, &out).unwrap(), [value; LEN]);
            ctx.device.wait(&other.device.event().unwrap()).unwrap();
        }
    });
}

#[test]
fn a_graph_is_replayed_on_another_stream_of_its_gpu() {
    for_each_setting(|ctx| {
        let other = fork(ctx);
        let (one, mut sum) = (upload(ctx, &[1.0_f32; LEN]), upload(ctx, &[0.0_f32; LEN]));
        let graph = capture(ctx, || add(ctx, &one, &mut sum));
        ctx.device.replay(&graph).unwrap();
        other.device.wait(&ctx.device.event().unwrap()).unwrap();
        other.device.replay(&graph).unwrap();
        assert_eq!(read(&other, &sum).unwrap(), [2.0; LEN]);
    });
}

#[test]
fn a_graph_outlives_the_arena_that_it_names() {
    for_each_setting(|ctx| {
        let graph = {
            let gone = Context::new(ctx.device.clone(), 1 << 16).unwrap();
            let mut x = block(&gone);
            capture(&gone, || fill(&gone, 1.0, x.view_mut([LEN])))
        };
        ctx.device.replay(&graph).unwrap();
        ctx.device.synchronize().unwrap();
    });
}

#[test]
fn blocks_taken_and_dropped_while_recording_are_workspace_of_every_replay() {
    for_each_setting(|ctx| {
        let (one, mut sum) = (upload(ctx, &[1.0_f32; LEN]), upload(ctx, &[0.0_f32; LEN]));
        let then = ctx.arena.occupancy();
        let graph = capture(ctx, || {
            let mut workspace = block(ctx);
            copy(ctx, &one, &mut workspace)?;
            add(ctx, &workspace, &mut sum)
        });
        for _ in 0..3 {
            assert!(ctx.arena.is_occupied_as(&then));
            // The same bytes, for something else in between.
            let mut other = block(ctx);
            fill(ctx, 7.0, other.view_mut([LEN])).unwrap();
            drop(other);
            ctx.device.replay(&graph).unwrap();
        }
        assert_eq!(read(ctx, &sum).unwrap(), [3.0; LEN]);
    });
}

#[test]
fn all_that_cannot_be_repeated_is_refused_by_name() {
    for_each_setting(|ctx| {
        let (mut x, mut y) = (upload(ctx, &[1.0_f32; LEN]), upload(ctx, &[2.0_f32; LEN]));
        let event = ctx.device.event().unwrap();
        let empty = capture(ctx, || Ok(()));
        let mut refused = Vec::new();
        let graph = capture(ctx, || {
            let mut refuse = |name: &str, result: Result<()>| {
                let message = result.expect_err(name).to_string();
                let expected =
                    format!("{name} on a stream that records a graph: only kernels, copies and zeros");
                assert!(message.starts_with(&expected), "{message}");
                refused.push(name.to_owned());
            };
            refuse("upload", ctx.device.upload(&[5.0_f32; LEN], x.view_mut([LEN])));
            refuse("download", read(ctx, &x).map(drop));
            refuse("synchronize", ctx.device.synchronize());
            refuse("event", ctx.device.event().map(drop));
            refuse("wait", ctx.device.wait(&event));
            refuse("fork", ctx.device.fork().map(drop));
            refuse("allocate", ctx.device.allocate(256).map(drop));
            refuse("replay", ctx.device.replay(&empty));
            refuse("capture", ctx.device.capture(|| Ok::<(), tisserand_kernels::KernelError>(())).map(drop));
            // A refusal changes nothing: the recording goes on.
            copy(ctx, &x, &mut y)
        });
        assert_eq!(refused.len(), 9);
        assert_eq!(read(ctx, &y).unwrap(), [2.0; LEN]);
        ctx.device.replay(&graph).unwrap();
        assert_eq!(read(ctx, &y).unwrap(), [1.0; LEN]);
    });
}

#[test]
fn a_recording_that_fails_leaves_the_stream_as_it_was() {
    for_each_setting(|ctx| {
        let (one, mut sum) = (upload(ctx, &[1.0_f32; LEN]), upload(ctx, &[0.0_f32; LEN]));
        let failed = ctx.device.capture(|| {
            add(ctx, &one, &mut sum)?;
            ctx.device.synchronize()
        });
        assert!(failed.is_err());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _never = ctx.device.capture(|| -> Result<()> {
                add(ctx, &one, &mut sum)?;
                panic!("inside of a recording")
            });
        }));
        assert!(panicked.is_err());
        assert_eq!(read(ctx, &sum).unwrap(), [0.0; LEN]);
        let graph = capture(ctx, || add(ctx, &one, &mut sum));
        ctx.device.replay(&graph).unwrap();
        assert_eq!(read(ctx, &sum).unwrap(), [1.0; LEN]);
    });
}

/// What only a device finds that looks for mistakes.
#[cfg(feature = "emulator")]
mod mistakes {
    use tisserand_kernels::Cuda;
    use tisserand_kernels::cuda::driver::emulated::{Completion, Emulated, Settings};

    use super::*;
    use crate::support::context;

    #[test]
    fn memory_that_has_lost_its_owner_is_found_at_the_replay() {
        for_each_setting(|ctx| {
            let (x, mut y) = (upload(ctx, &[1.0_f32; LEN]), block(ctx));
            let graph = capture(ctx, || elementwise::cast(ctx, x.view([LEN]), y.view_mut([LEN])));
            ctx.device.replay(&graph).unwrap();
            ctx.device.synchronize().unwrap();
            drop(x);
            let failed = ctx.device.replay(&graph).and(ctx.device.synchronize());
            let message = failed.expect_err("the mistake was not seen").to_string();
            assert!(message.contains("cast_f32_f32") && message.contains("uninitialised"), "{message}");
        });
    }

    #[test]
    fn workspace_that_only_the_first_replay_would_find_written_is_found_at_the_first() {
        for_each_setting(|ctx| {
            let mut out = block(ctx);
            let graph = capture(ctx, || {
                let workspace = block(ctx);
                elementwise::cast(ctx, workspace.view([LEN]), out.view_mut([LEN]))
            });
            let failed = ctx.device.replay(&graph).and(ctx.device.synchronize());
            assert!(failed.unwrap_err().to_string().contains("uninitialised"));
        });
    }

    #[test]
    fn a_block_in_the_workspace_of_a_graph_is_overwritten() {
        for_each_setting(|ctx| {
            let graph = capture(ctx, || {
                let mut workspace = block(ctx);
                ctx.device.zero(workspace.view_mut([LEN]))
            });
            let then = ctx.arena.occupancy();
            let owner = upload(ctx, &[1.0_f32; LEN]);
            assert!(!ctx.arena.is_occupied_as(&then), "this says so beforehand");
            ctx.device.replay(&graph).unwrap();
            let message = read(ctx, &owner).unwrap_err().to_string();
            assert!(message.contains("was not written"), "{message}");
        });
    }

    #[test]
    fn an_upload_behind_a_replay_on_a_late_stream_does_not_overtake_it() {
        let ctx = context(Settings { completion: Completion::Late, ..Settings::default() });
        let (mut x, mut y) = (upload(&ctx, &[1.0_f32; LEN]), block(&ctx));
        let graph = capture(&ctx, || copy(&ctx, &x, &mut y));
        ctx.device.replay(&graph).unwrap();
        ctx.device.upload(&[2.0_f32; LEN], x.view_mut([LEN])).unwrap();
        assert_eq!(read(&ctx, &y).unwrap(), [1.0; LEN]);
    }

    #[test]
    fn a_graph_of_another_gpu_is_refused() {
        let [ctx, peer] = [0, 1].map(|_| context(Settings::default()));
        let mut x = block(&ctx);
        let graph = capture(&ctx, || fill(&ctx, 1.0, x.view_mut([LEN])));
        let message = peer.device.replay(&graph).unwrap_err().to_string();
        assert_eq!(message, "replay of a graph that was recorded on another GPU (please report this)");
    }

    #[test]
    fn a_replay_is_one_command() {
        let driver = Emulated::new(Settings::default());
        let ctx = Context::new(Cuda::new(driver.clone()), 1 << 16).unwrap();
        let (mut x, mut y) = (block(&ctx), block(&ctx));
        let before = driver.commands();
        let graph = capture(&ctx, || {
            fill(&ctx, 1.0, x.view_mut([LEN]))?;
            copy(&ctx, &x, &mut y)?;
            drop(block(&ctx));
            Ok(())
        });
        assert_eq!((driver.commands() - before, graph.commands()), (0, 2));
        ctx.device.replay(&graph).unwrap();
        assert_eq!(driver.commands() - before, 1);
    }
}
