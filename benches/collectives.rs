//! Every collective from 1 KiB to 256 MiB, against the floor that copies of memory set.
//!
//! `cargo bench --bench collectives -- [--ranks 2] [--only NAME] [--max-mib 256] [--unbound] [--json]`
//! `mpirun -n 2 <the same program, built with --features mpi> --mpi [...]`
//!
//! The size is that of the payload: a rank's block, of an all-to-all the half that is sent. The floor of a call
//! is the bytes that all ranks together must read and write ([`least_bytes`]), over the rate at which as many
//! threads copy as much memory (`memcpy`): read plus written bytes per second, each thread a buffer of that size
//! into another. Copy and collective are timed in turn, and a share is that of one such pair, so that both meet the
//! same state of the machine; printed are medians over the pairs. A time is that of the slowest rank, from a
//! barrier on.
//!
//! The threads of a rank are bound to one core, as `srun` binds processes: threads that wake each other are else put
//! on one core by the system while the next stands idle, and take twice the time (`--unbound` shows it).
//!
//! send/recv is a ring: every rank sends to the next and receives from the one before.

use std::error::Error;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::json;
use tisserand_collectives::threads::{self, Overlap, Seat};
use tisserand_collectives::{Call, CommError, Communicator, Progress, ReduceOp};
use tisserand_kernels::{Block, Class, Context, Cpu, DType, Device, Storage};

const SMALLEST: usize = 1 << 10;
const TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Clone)]
struct Options {
    ranks: usize,
    only: Option<String>,
    max_bytes: usize,
    is_bound: bool,
    json: bool,
    mpi: bool,
}

impl Options {
    fn from_command_line() -> Result<Self, Box<dyn Error>> {
        let max_bytes = 256 << 20;
        let mut options =
            Options { ranks: 2, only: None, max_bytes, is_bound: true, json: false, mpi: false };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--ranks" => options.ranks = value()?.parse()?,
                "--only" => options.only = Some(value()?),
                "--max-mib" => options.max_bytes = value()?.parse::<usize>()? << 20,
                "--unbound" => options.is_bound = false,
                "--json" => options.json = true,
                "--mpi" => options.mpi = true,
                "--bench" => {} // what cargo passes
                _ => return Err(format!("unknown argument {argument:?}").into()),
            }
        }
        Ok(options)
    }
}

/// What is measured.
#[derive(Clone, Copy)]
enum Case {
    Collective(&'static str, Call),
    Ring,
}

const CASES: [Case; 6] = [
    Case::Collective("all_reduce", Call::AllReduce(ReduceOp::Sum)),
    Case::Collective("reduce_scatter", Call::ReduceScatter(ReduceOp::Sum)),
    Case::Collective("all_gather", Call::AllGather),
    Case::Collective("all_to_all", Call::AllToAll),
    Case::Collective("broadcast", Call::Broadcast { root: 0 }),
    Case::Ring,
];

impl Case {
    fn name(self) -> &'static str {
        match self {
            Case::Collective(name, _) => name,
            Case::Ring => "send/recv",
        }
    }

    /// Bytes that the `n` ranks must read and write at least, together, for a payload of `bytes` each.
    fn least_bytes(self, n: usize, bytes: usize) -> usize {
        match self {
            // Every block is read once, and the result written into every block.
            Case::Collective("all_reduce", _) => 2 * n * bytes,
            // Every block is read once, and the result, of one block's size, written.
            Case::Collective("reduce_scatter", _) => (n + 1) * bytes,
            // Every rank copies the slices of the others.
            Case::Collective("all_gather", _) => 2 * (n - 1) * bytes,
            // Every rank copies one slice of each, its own too.
            Case::Collective("all_to_all", _) => 2 * n * bytes,
            // Every rank but one has its block written from the root's.
            Case::Collective("broadcast", _) => 2 * (n - 1) * bytes,
            Case::Collective(name, _) => unreachable!("{name} has no floor"),
            // Every rank's block is written from another's.
            Case::Ring => 2 * n * bytes,
        }
    }
}

/// One rank's memory: two blocks of the payload's size each.
struct Buffers<D: Device> {
    first: Block<D>,
    second: Block<D>,
}

impl Buffers<Cpu> {
    fn new(ctx: &Context<Cpu>, bytes: usize) -> Result<Self, Box<dyn Error>> {
        let mut first = ctx.arena.block(Class::Communication, DType::F32, bytes / 2)?;
        ctx.device.zero(first.view_mut([bytes / 2]))?;
        let second = first.split_off(bytes / 4);
        Ok(Buffers { first, second })
    }
}

/// Seconds of one call on this rank.
fn once(
    world: &mut dyn Communicator<Cpu>,
    case: Case,
    buffers: Buffers<Cpu>,
) -> Result<(f64, Buffers<Cpu>), CommError> {
    let Buffers { mut first, mut second } = buffers;
    let (me, n, len) = (world.rank(), world.size(), first.len());
    match case {
        Case::Collective(_, call @ Call::AllToAll) => {
            first.append(second);
            let begin = Instant::now();
            first = world.run(call, first)?;
            let seconds = begin.elapsed().as_secs_f64();
            second = first.split_off(len);
            Ok((seconds, Buffers { first, second }))
        }
        Case::Collective(_, call) => {
            let begin = Instant::now();
            first = world.run(call, first)?;
            Ok((begin.elapsed().as_secs_f64(), Buffers { first, second }))
        }
        Case::Ring => {
            let begin = Instant::now();
            let sent = world.start(Call::Send { to: (me + 1) % n }, first)?;
            second = world.run(Call::Recv { from: (me + n - 1) % n }, second)?;
            first = sent.wait()?;
            Ok((begin.elapsed().as_secs_f64(), Buffers { first, second }))
        }
    }
}

/// Medians over pairs, the same on every rank.
struct Measured {
    case: Case,
    bytes: usize,
    pairs: usize,
    seconds: f64,
    floor_s: f64,
    share: f64,
}

fn measure(
    world: &mut dyn Communicator<Cpu>,
    ctx: &Context<Cpu>,
    case: Case,
    bytes: usize,
) -> Result<Measured, Box<dyn Error>> {
    let n = world.size();
    let pairs = ((3 << 30) / bytes).clamp(11, 301);
    let mut buffers = Buffers::new(ctx, bytes)?;
    let mut times = Vec::with_capacity(2 * pairs);
    for pair in 0..pairs + 2 {
        world.barrier()?;
        let begin = Instant::now();
        let Buffers { first, second } = &mut buffers;
        let (from, to) = (first.view([first.len()]), second.view_mut([second.len()]));
        to.into_bytes().copy_from_slice(from.as_bytes());
        let copied = begin.elapsed().as_secs_f64();
        world.barrier()?;
        let (seconds, back) = once(world, case, buffers)?;
        buffers = back;
        if pair >= 2 {
            times.extend([copied as f32, seconds as f32]);
        }
    }
    drop(buffers);
    // The slowest rank's.
    let mut slowest = ctx.arena.block(Class::Communication, DType::F32, times.len())?;
    ctx.device.upload(&times, slowest.view_mut([times.len()]))?;
    let slowest = world.run(Call::AllReduce(ReduceOp::Max), slowest)?;
    ctx.device.download(slowest.view([times.len()]), &mut times)?;
    let pairs_of_times = times.chunks_exact(2).map(|pair| [f64::from(pair[0]), f64::from(pair[1])]);
    let (mut seconds, mut floors, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    for [copied, took] in pairs_of_times {
        let byte_per_s = (2 * n * bytes) as f64 / copied;
        let floor_s = case.least_bytes(n, bytes) as f64 / byte_per_s;
        seconds.push(took);
        floors.push(floor_s);
        shares.push(floor_s / took);
    }
    let [seconds, floor_s, share] = [seconds, floors, shares].map(median);
    Ok(Measured { case, bytes, pairs, seconds, floor_s, share })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// One rank's part of the whole program; rank 0 prints.
fn run(world: &mut dyn Communicator<Cpu>, options: &Options, kind: &str) -> Result<(), Box<dyn Error>> {
    let (is_first, ranks) = (world.rank() == 0, world.size());
    // Two buffers of the largest size, workspace of as much for MPI, and room for small ones.
    let ctx = Context::new(Cpu::new(1)?, 3 * options.max_bytes + (8 << 20))?;
    if is_first && !options.json {
        println!(
            "{kind}, {ranks} ranks\n{:<16}{:>12}{:>8}{:>14}{:>10}{:>14}{:>10}",
            "collective", "bytes", "pairs", "median", "GB/s", "floor", "of floor"
        );
    }
    for case in CASES {
        if options.only.as_ref().is_some_and(|only| !case.name().contains(only.as_str())) {
            continue;
        }
        let mut bytes = SMALLEST;
        while bytes <= options.max_bytes {
            let measured = measure(world, &ctx, case, bytes)?;
            if is_first {
                print(&measured, kind, ranks, options.json);
            }
            bytes *= 4;
        }
    }
    Ok(())
}

fn print(measured: &Measured, kind: &str, ranks: usize, as_json: bool) {
    let Measured { case, bytes, pairs, seconds, floor_s, share } = measured;
    let gb_per_s = *bytes as f64 / seconds / 1e9;
    if as_json {
        let line = json!({
            "communicator": kind, "ranks": ranks, "collective": case.name(), "payload_bytes": bytes, "pairs": pairs,
            "seconds": seconds, "gb_per_s": gb_per_s, "floor_s": floor_s, "of_floor": share,
        });
        println!("{line}");
        return;
    }
    println!(
        "{:<16}{bytes:>12}{pairs:>8}{:>11.1} µs{gb_per_s:>10.2}{:>11.1} µs{:>8.0} %",
        case.name(),
        1e6 * seconds,
        1e6 * floor_s,
        100.0 * share
    );
}

fn on_threads(options: &Options) -> Result<(), Box<dyn Error>> {
    let rank = |rank: usize, seat: Seat<Cpu>| -> Result<(), String> {
        if options.is_bound {
            bind(rank).map_err(|error| error.to_string())?;
        }
        let device = Cpu::new(1).map_err(|error| error.to_string())?;
        let mut world = seat
            .take(&device, Overlap::Background, Progress::default())
            .map_err(|error| error.to_string())?;
        run(&mut world, options, "threads").map_err(|error| error.to_string())
    };
    std::thread::scope(|scope| {
        let seats = threads::seats::<Cpu>(options.ranks, TIMEOUT).into_iter();
        let ranks: Vec<_> = seats.enumerate().map(|(i, seat)| scope.spawn(move || rank(i, seat))).collect();
        ranks
            .into_iter()
            .try_for_each(|rank| rank.join().unwrap_or_else(|_| Err("a rank panicked".to_owned())))
    })?;
    Ok(())
}

/// Binds this thread, and those that it will start, to the core of a rank.
fn bind(rank: usize) -> Result<(), Box<dyn Error>> {
    let cores = std::thread::available_parallelism()?.get();
    let mut set = CpuSet::new();
    set.set(rank % cores)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

#[cfg(feature = "mpi")]
fn on_mpi(options: &Options) -> Result<(), Box<dyn Error>> {
    use tisserand_collectives::mpi::Mpi;
    let mut world = Mpi::start(&Cpu::new(1)?, Progress::default(), TIMEOUT)?;
    // Calls are those of a program that is known to be right.
    world.handle().set_checked(false);
    run(&mut world, options, "mpi")
}

#[cfg(not(feature = "mpi"))]
fn on_mpi(_: &Options) -> Result<(), Box<dyn Error>> {
    Err("--mpi needs a build with --features mpi, started by mpirun".into())
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::from_command_line()?;
    if options.mpi { on_mpi(&options) } else { on_threads(&options) }
}
