//! NCCL itself. Without an argument, what needs the library and no GPU; otherwise this process is a rank, started by
//! nccl.sh with a scenario as its argument, which needs a GPU.
//!
//! The library is looked for as a run does: in the folder that NCCL_HOME names, then by the loader.
//! `collectives/tests/nccl.sh install` gets one from PyPI and says where it is.

mod conformance;

use std::sync::Arc;
use std::time::{Duration, Instant};

use conformance::Rank;
use tisserand_collectives::control::{Listener, Rendezvous, Secret, Tcp};
use tisserand_collectives::nccl::{Library, Nccl, Search, Sums};
use tisserand_collectives::{Call, Communicator, ControlPlane, Failure, ReduceOp};
use tisserand_kernels::cuda::driver::cudarc::{Cudarc, probe};
use tisserand_kernels::{Block, Class, Context, Cuda, DType, Storage};

type Gpu = Cuda<Cudarc>;
type World = Box<dyn Communicator<Gpu>>;

const TIMEOUT: Duration = Duration::from_secs(60);

fn main() {
    // `cargo test` passes options of its harness.
    let scenario = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    match scenario.as_deref().unwrap_or("library") {
        "library" => library(),
        "suite" => suite(),
        "unchecked" => unchecked(),
        "timeout" => timeout(),
        "dead" => dead(),
        "bench" => bench(),
        other => panic!("no scenario {other}"),
    }
}

fn load() -> Library {
    let search = Search {
        file: None,
        home: std::env::var_os("NCCL_HOME").map(Into::into),
        launch_order: std::env::var("NCCL_LAUNCH_ORDER_IMPLICIT").ok(),
    };
    Library::load(&search).unwrap_or_else(|error| panic!("{error}"))
}

/// The table of functions, the version, and ids, which are all different.
fn library() {
    let library = load();
    let described = library.describe();
    assert!(described.starts_with("NCCL 2."), "{described}");
    // An id holds the address of this machine.
    let ids = [library.new_id().unwrap(), library.new_id().unwrap()];
    assert!(ids[0] != ids[1] && ids.iter().all(|id| id.iter().any(|byte| *byte != 0)));
    println!("library: ok, {described}");
}

/// This process among the others.
struct Job {
    world: Nccl<Gpu>,
    ctx: Context<Gpu>,
    control: Arc<dyn ControlPlane>,
}

fn number(name: &str) -> usize {
    let value = std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; hint: use nccl.sh"));
    value.parse().unwrap_or_else(|_| panic!("{name} = {value} is no number"))
}

fn start(sums: Sums, timeout: Duration, arena_bytes: usize) -> Job {
    let (rank, world_size, port) = (number("RANK"), number("WORLD_SIZE"), number("MASTER_PORT") as u16);
    let meeting = Rendezvous {
        rank,
        world_size,
        host: "localhost".to_owned(),
        port,
        secret: Secret::new(b"of the tests"),
        timeout: TIMEOUT,
        dead_after: Rendezvous::DEAD_AFTER,
        patience: None,
    };
    let control = if rank == 0 {
        Listener::bind(port).and_then(|listener| listener.accept(&meeting))
    } else {
        Tcp::connect(&meeting)
    };
    let control: Arc<dyn ControlPlane> = Arc::new(control.unwrap());
    let gpus = probe().unwrap().len();
    let device = Cuda::new(Cudarc::open(rank % gpus).unwrap());
    let library = load();
    if rank == 0 {
        println!("  {}, {world_size} ranks on {gpus} x {}", library.describe(), device.driver().gpu().name);
    }
    let world = Nccl::start(library, &device, Arc::clone(&control), sums, timeout).unwrap();
    let ctx = Context::new(device, arena_bytes).unwrap();
    Job { world, ctx, control }
}

impl Job {
    fn rank(&self) -> usize {
        self.control.rank()
    }

    fn all(&mut self, axis: &str) -> World {
        let rank = self.rank();
        self.world.split(axis, 0, rank).unwrap()
    }

    fn block(&self, len: usize) -> Block<Gpu> {
        let mut block = self.ctx.arena.block(Class::Gradients, DType::F32, len).unwrap();
        self.ctx.device.upload(&vec![1.0_f32; len], block.view_mut([len])).unwrap();
        block
    }
}

fn ok(scenario: &str, rank: usize) {
    println!("{scenario} rank {rank}: ok");
}

/// NCCL wants the calls of all communicators in one order on all ranks; one check has none.
fn has_one_order(name: &str) -> bool {
    !name.contains("late rank")
}

fn suite() {
    let mut job = start(Sums::Tree, TIMEOUT, 256 << 20);
    let (me, mut world) = (job.rank(), job.all("world"));
    let began = Instant::now();
    conformance::all(&mut Rank { world: &mut *world, ctx: job.ctx.clone() }, has_one_order, |check| {
        if me == 0 {
            println!("  {:6.2} s  {check}", began.elapsed().as_secs_f64());
        }
    });
    ok("suite", me);
}

/// Without headers every check passes but those of ranks that differ.
fn unchecked() {
    let mut job = start(Sums::Tree, TIMEOUT, 256 << 20);
    let (me, mut world) = (job.rank(), job.all("world"));
    world.barrier().unwrap();
    job.world.handle().set_checked(false);
    let mut rank = Rank { world: &mut *world, ctx: job.ctx.clone() };
    conformance::all(&mut rank, |name| has_one_order(name) && !name.contains("differ"), |_| ());
    drop(world);
    drop(job);
    ok("unchecked", me);
}

/// The last rank does not come to a call that is not checked. The others end, by the thread that watches.
fn timeout() {
    let mut job = start(Sums::Library, Duration::from_secs(2), 1 << 20);
    let (me, mut axis) = (job.rank(), job.all("dp_shard"));
    // What NCCL does at the first call of each kind takes its time.
    drop(axis.run(Call::AllReduce(ReduceOp::Sum), job.block(1024)).unwrap());
    job.ctx.device.synchronize().unwrap();
    axis.barrier().unwrap();
    job.world.handle().set_checked(false);
    if me + 1 < axis.size() {
        let began = Instant::now();
        let pending = axis.start(Call::AllReduce(ReduceOp::Sum), job.block(1024)).unwrap();
        drop(pending.wait());
        // The stream waits for the last rank until the communicator is aborted.
        let _ = job.ctx.device.synchronize();
        let waited = began.elapsed().as_secs_f64();
        assert!((1.9..10.0).contains(&waited), "{waited}");
    }
    while job.control.failure().is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let failure = job.control.failure().unwrap().to_string();
    assert!(failure.contains("dp_shard all_reduce #1 has not ended within 2 s"), "{failure}");
    ok("timeout", me);
    std::process::exit(0);
}

/// The last rank dies while the others wait for it on the GPU: they end at once, and name it.
fn dead() {
    let mut job = start(Sums::Library, TIMEOUT, 1 << 20);
    let (me, mut axis) = (job.rank(), job.all("tp"));
    drop(axis.run(Call::AllReduce(ReduceOp::Sum), job.block(1024)).unwrap());
    job.ctx.device.synchronize().unwrap();
    axis.barrier().unwrap();
    job.world.handle().set_checked(false);
    if me + 1 == axis.size() {
        ok("dead", me);
        std::process::exit(0);
    }
    let began = Instant::now();
    let pending = axis.start(Call::AllReduce(ReduceOp::Sum), job.block(1024));
    let ended = pending.and_then(|pending| pending.wait().map(drop));
    let _ = job.ctx.device.synchronize();
    while job.control.failure().is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let failure: Failure = job.control.failure().unwrap();
    assert_eq!(failure.rank, axis.size() - 1, "{failure}");
    let next = axis.run(Call::AllReduce(ReduceOp::Sum), job.block(1024)).err().unwrap().to_string();
    assert_eq!(next, failure.to_string(), "after {ended:?}");
    ok("dead", me);
    std::process::exit(0);
}

/// Rates of 256 MiB, and how long a short call keeps host and GPU.
fn bench() {
    const LEN: usize = 64 << 20;
    for sums in [Sums::Library, Sums::Tree] {
        let mut job = start(sums, TIMEOUT, 3 * LEN * 4);
        let (me, mut axis) = (job.rank(), job.all("bench"));
        let size = axis.size();
        job.world.handle().set_checked(false);
        for (what, call, passes) in [
            ("all_gather", Call::AllGather, 1.0),
            ("reduce_scatter", Call::ReduceScatter(ReduceOp::Sum), 1.0),
            ("all_reduce", Call::AllReduce(ReduceOp::Sum), 2.0),
        ] {
            for len in [LEN, 1024 * size] {
                let mut block = Some(job.block(len));
                let (mut times, mut host) = (Vec::new(), Vec::new());
                for _ in 0..15 {
                    axis.barrier().unwrap();
                    let began = Instant::now();
                    let pending = axis.start(call, block.take().unwrap()).unwrap();
                    block = Some(pending.wait().unwrap());
                    host.push(began.elapsed().as_secs_f64());
                    job.ctx.device.synchronize().unwrap();
                    times.push(began.elapsed().as_secs_f64());
                }
                let median = |mut times: Vec<f64>| {
                    times.drain(..3);
                    times.sort_by(f64::total_cmp);
                    times[times.len() / 2]
                };
                let (seconds, host) = (median(times), median(host));
                let moved_bytes = passes * (4 * len / size * (size - 1)) as f64;
                if me == 0 {
                    let rate = moved_bytes / seconds / 1e9;
                    let (kib, us, host) = (4 * len / 1024, 1e6 * seconds, 1e6 * host);
                    println!(
                        "  {sums:?} {what} {kib} KiB: {us:9.1} us, {rate:7.2} GB/s moved, host {host:.1} us"
                    );
                }
            }
        }
        drop((axis, job));
    }
    ok("bench", number("RANK"));
}
