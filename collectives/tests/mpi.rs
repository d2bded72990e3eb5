//! Ranks that are processes: every one of them is this program, started by `mpirun -n N` (see mpi.sh), with a
//! scenario as its argument. Without an argument, the suite that every communicator passes.
//!
//! A rank says `SCENARIO rank R: ok`. Scenarios that end with messages under way end without MPI_Finalize, as
//! a run that fails does; what mpirun returns then is its own affair, and mpi.sh counts the lines.

mod conformance;

use std::time::{Duration, Instant};

use conformance::Rank;
use tisserand_collectives::mpi::Mpi;
use tisserand_collectives::{Call, CommError, Communicator, Failure, Progress, ReduceOp, end_process};
use tisserand_kernels::{Class, Context, Cpu, DType};

const TIMEOUT: Duration = Duration::from_secs(60);

fn main() {
    // `cargo test` passes options of its harness.
    let scenario = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let scenario = scenario.as_deref().unwrap_or("suite");
    match scenario {
        "suite" => suite(),
        "unchecked" => unchecked(),
        "progress" => progress(),
        "timeout" => timeout(),
        "abort" => abort(),
        "panic" => panic(),
        "large" => large(),
        "bench" => bench(),
        other => panic!("no scenario {other}"),
    }
}

fn start(arena_bytes: usize, timeout: Duration) -> (Mpi, Context<Cpu>) {
    let ctx = Context::new(Cpu::new(1).unwrap(), arena_bytes).unwrap();
    let world = Mpi::start(&ctx.device, Progress::default(), timeout).unwrap();
    // The others would wait for a rank that unwinds, and it for them; mpirun ends them when it has ended.
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        end_process(1);
    }));
    (world, ctx)
}

fn ok(scenario: &str, rank: usize) {
    println!("{scenario} rank {rank}: ok");
}

fn suite() {
    let (mut world, ctx) = start(256 << 20, TIMEOUT);
    let me = world.rank();
    let began = Instant::now();
    conformance::all(
        &mut Rank { world: &mut world, ctx },
        |_| true,
        |check| {
            if me == 0 {
                println!("  {:6.2} s  {check}", began.elapsed().as_secs_f64());
            }
        },
    );
    ok("suite", me);
}

/// Without headers every check passes but the two of ranks that differ, and messages whose lengths differ are
/// found all the same.
fn unchecked() {
    let (mut world, ctx) = start(256 << 20, TIMEOUT);
    let (me, size) = (world.rank(), world.size());
    world.barrier().unwrap();
    let handle = world.handle();
    handle.set_checked(false);
    let mut rank = Rank { world: &mut world, ctx };
    for (name, check) in conformance::checks() {
        if !name.contains("differ") {
            check(&mut rank);
        }
    }
    if size > 1 {
        // The longer message is truncated, the shorter one is short.
        let len = if me == 0 { 10 * size } else { 20 * size };
        let block = rank.ctx.arena.block(Class::Gradients, DType::F32, len).unwrap();
        let error = rank.world.run(Call::AllGather, block).err().unwrap().to_string();
        let (sent, expected) = if me == 0 { ("more than 40", 40) } else { ("40", 80) };
        let sender = if me == 0 { "rank " } else { "rank 0 sends" };
        let end = format!("sends {sent} bytes, rank {me} expects {expected}");
        assert!(error.contains(sender) && error.ends_with(&end), "{error}");
        println!("  rank {me}: {error}");
    }
    ok("unchecked", me);
    if size > 1 {
        std::thread::sleep(Duration::from_millis(500));
        std::process::exit(0);
    }
}

/// The newest collective is noted when it begins and when it ends.
fn progress() {
    let ctx = Context::new(Cpu::new(1).unwrap(), 1 << 20).unwrap();
    let progress = Progress::default();
    let mut world = Mpi::start(&ctx.device, progress.clone(), TIMEOUT).unwrap();
    progress.note(|activity| activity.unit = Some("block 3".into()));
    world.barrier().unwrap();
    let mut axis = world.split("tp", 0, world.rank()).unwrap();
    for sequence in 0..3 {
        let block = ctx.arena.block(Class::Gradients, DType::F32, 8 * world.size()).unwrap();
        drop(axis.run(Call::AllGather, block).unwrap());
        let newest = progress.read().0.collective.unwrap();
        assert_eq!((&*newest.axis, &*newest.kind, newest.sequence), ("tp", "all_gather", sequence));
        assert_eq!((newest.unit.as_deref(), newest.done), (Some("block 3"), true));
    }
    if world.rank() + 1 < world.size() {
        let block = ctx.arena.block(Class::Gradients, DType::U8, 3).unwrap();
        let pending = axis.start(Call::AllReduce(ReduceOp::Max), block).unwrap();
        let newest = progress.read().0.collective.unwrap();
        assert_eq!((&*newest.kind, newest.sequence, newest.done), ("all_reduce", 3, false));
        world.barrier().unwrap();
        drop(pending.wait().unwrap());
    } else {
        world.barrier().unwrap();
        let block = ctx.arena.block(Class::Gradients, DType::U8, 3).unwrap();
        drop(axis.run(Call::AllReduce(ReduceOp::Max), block).unwrap());
    }
    ok("progress", world.rank());
}

/// The last rank does not come. The others end, and name it.
fn timeout() {
    let (mut world, ctx) = start(1 << 20, Duration::from_millis(1500));
    let (me, size) = (world.rank(), world.size());
    world.barrier().unwrap();
    for checked in [true, false] {
        let mut axis = world.split("dp_shard", 0, me).unwrap();
        world.handle().set_checked(checked);
        if me + 1 < size {
            let block = ctx.arena.block(Class::Gradients, DType::F32, 8 * size).unwrap();
            let began = Instant::now();
            let error = axis.run(Call::AllGather, block).err().unwrap();
            let waited = began.elapsed().as_secs_f64();
            let CommError::Failed(failure) = &error else { panic!("{error}") };
            assert_eq!(failure.rank, size - 1, "{error}");
            assert!(
                error.to_string().contains("did not join dp_shard all_gather #0 within 1.5 s"),
                "{error}"
            );
            assert!((1.4..4.0).contains(&waited), "{waited}");
            println!("  rank {me} after {waited:.2} s: {error}");
        }
        world.handle().set_checked(true);
        if me + 1 == size {
            std::thread::sleep(Duration::from_secs(2));
        }
        // The other communicators go on.
        world.barrier().unwrap();
    }
    ok("timeout", me);
    std::thread::sleep(Duration::from_secs(1));
    std::process::exit(0);
}

/// Another thread ends what this one waits for, on every communicator.
fn abort() {
    let (mut world, ctx) = start(1 << 20, TIMEOUT);
    let (me, size) = (world.rank(), world.size());
    let mut axis = world.split("tp", 0, me).unwrap();
    world.barrier().unwrap();
    let failure = Failure::fault(size - 1, "died: connection closed");
    let (handle, news) = (world.handle(), failure.clone());
    let watcher = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        handle.abort(news);
        handle.abort(Failure::fault(0, "an echo"));
    });
    if me + 1 < size {
        let block = || ctx.arena.block(Class::Gradients, DType::F32, 1 << 10).unwrap();
        let pending = axis.start(Call::AllReduce(ReduceOp::Sum), block()).unwrap();
        let behind = axis.start(Call::AllReduce(ReduceOp::Sum), block()).unwrap();
        let began = Instant::now();
        let errors = [world.barrier().err(), pending.wait().err(), behind.wait().err()];
        for error in errors {
            assert!(matches!(error, Some(CommError::Failed(error)) if error == failure));
        }
        assert!(began.elapsed() < Duration::from_secs(2));
    }
    watcher.join().unwrap();
    let block = ctx.arena.block(Class::Gradients, DType::F32, 8 * size).unwrap();
    assert_eq!(axis.run(Call::AllGather, block).err().unwrap().to_string(), failure.to_string());
    assert_eq!(world.barrier().err().unwrap().to_string(), failure.to_string());
    let began = Instant::now();
    drop((world, axis));
    assert!(began.elapsed() < Duration::from_secs(2), "what has failed is not waited for");
    ok("abort", me);
    std::thread::sleep(Duration::from_secs(1));
    std::process::exit(0);
}

/// One rank panics while the others wait: mpirun returns an error, soon.
fn panic() {
    let (mut world, _ctx) = start(1 << 20, TIMEOUT);
    world.barrier().unwrap();
    if world.rank() + 1 == world.size() {
        panic!("a broken invariant");
    }
    world.barrier().unwrap();
    unreachable!("the job has ended");
}

/// One message of more bytes than an `int` counts.
fn large() {
    const LEN: usize = (1 << 31) + 3 * 4096;
    let (mut world, ctx) = start(LEN + 256, Duration::from_secs(300));
    let me = world.rank();
    assert_eq!(world.size(), 2);
    let pattern = |i: usize| (i.wrapping_mul(0x9e37_79b9) >> 13) as u8;
    let mut block = ctx.arena.block(Class::Gradients, DType::U8, LEN).unwrap();
    if me == 0 {
        let bytes = block.view_mut([LEN]).into_bytes();
        bytes.iter_mut().enumerate().for_each(|(i, byte)| *byte = pattern(i));
    }
    let call = if me == 0 { Call::Send { to: 1 } } else { Call::Recv { from: 0 } };
    let began = Instant::now();
    let block = world.run(call, block).unwrap();
    let seconds = began.elapsed().as_secs_f64();
    let wrong = block.view([LEN]).as_bytes().iter().enumerate().find(|(i, byte)| **byte != pattern(*i));
    assert_eq!(wrong, None);
    println!("  rank {me}: {LEN} bytes in {seconds:.2} s");
    ok("large", me);
}

/// Bytes that a rank sends in an all-gather and a reduce-scatter, per second, beside copies of as many bytes.
fn bench() {
    const LEN: usize = 16 << 20;
    let (mut world, ctx) = start(6 * LEN * 4, TIMEOUT);
    let (me, size) = (world.rank(), world.size());
    world.handle().set_checked(false);
    let moved_bytes = 4 * LEN / size * (size - 1);
    let mut block = ctx.arena.block(Class::Gradients, DType::F32, LEN).unwrap();
    block.view_mut([LEN]).into_slice::<f32>().fill(1.0);
    let report = |what: &str, moved_bytes: usize, mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        let (best, median) = (times[0], times[times.len() / 2]);
        if me == 0 {
            let rate = |seconds: f64| moved_bytes as f64 / seconds / 1e9;
            println!(
                "  {what:<16} {:7.2} ms median, {:6.2} GB/s moved per rank (best {:6.2})",
                1e3 * median,
                rate(median),
                rate(best)
            );
        }
    };
    for (what, call) in [
        ("all_gather", Call::AllGather),
        ("reduce_scatter", Call::ReduceScatter(ReduceOp::Sum)),
        ("all_reduce", Call::AllReduce(ReduceOp::Sum)),
    ] {
        let mut times = Vec::new();
        for _ in 0..15 {
            world.barrier().unwrap();
            let began = Instant::now();
            block = world.run(call, block).unwrap();
            times.push(began.elapsed().as_secs_f64());
        }
        let phases = if matches!(call, Call::AllReduce(_)) { 2 } else { 1 };
        report(what, phases * moved_bytes, times.split_off(3));
    }
    let mut target = ctx.arena.block(Class::Gradients, DType::U8, moved_bytes).unwrap();
    let mut times = Vec::new();
    for _ in 0..15 {
        world.barrier().unwrap();
        let began = Instant::now();
        let target = target.view_mut([moved_bytes]).into_bytes();
        target.copy_from_slice(&block.view([LEN]).as_bytes()[..moved_bytes]);
        times.push(began.elapsed().as_secs_f64());
    }
    report("memcpy", moved_bytes, times.split_off(3));
    let mut times = Vec::new();
    let small = ctx.arena.block(Class::Gradients, DType::F32, 8 * size).unwrap();
    let mut small = Some(small);
    for _ in 0..500 {
        let began = Instant::now();
        small = Some(world.run(Call::AllGather, small.take().unwrap()).unwrap());
        times.push(began.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    if me == 0 {
        println!("  all_gather of 32 bytes a rank: {:.1} us median", 1e6 * times[times.len() / 2]);
    }
    ok("bench", me);
}
