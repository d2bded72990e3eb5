//! Every wait of every call, forgotten in turn: some stream that is late, or early, must show it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use tisserand_collectives::threads::Overlap;
use tisserand_collectives::{Call, CommError, Communicator, ReduceOp};
use tisserand_kernels::cuda::driver::emulated::{
    Completion, Emulated, EmulatedEvent, EmulatedGraph, EmulatedMemory, EmulatedMoment,
};
use tisserand_kernels::cuda::driver::{Driver, Moments, Span};
use tisserand_kernels::cuda::{Arg, LaunchConfig};
use tisserand_kernels::testing::upload;
use tisserand_kernels::{Block, Class, Context, Cuda, DType, Device, KernelError, Result, Storage};

use crate::{device, on_ranks};

/// A driver that forgets one wait.
#[derive(Clone)]
struct Forgetful {
    driver: Emulated,
    /// Which of its device's handles this is: the rank's own, or that of its communicator.
    handle: usize,
    memory: Arc<Memory>,
}

/// What the handles of a device share.
struct Memory {
    /// A handle, and which of its waits. None of them where there is no such handle.
    forgotten: [usize; 2],
    waits: [AtomicUsize; 2],
}

impl Forgetful {
    fn new(completion: Completion, forgotten: [usize; 2]) -> Self {
        let memory = Memory { forgotten, waits: Default::default() };
        Forgetful { driver: device(completion), handle: 0, memory: Arc::new(memory) }
    }

    fn has_forgotten(&self) -> bool {
        let [handle, wait] = self.memory.forgotten;
        self.memory.waits.get(handle).is_some_and(|waits| waits.load(Ordering::Relaxed) > wait)
    }
}

impl Driver for Forgetful {
    type Memory = EmulatedMemory;
    type Event = EmulatedEvent;
    type Graph = EmulatedGraph;

    fn allocate(&self, bytes: usize) -> Result<EmulatedMemory> {
        self.driver.allocate(bytes)
    }

    fn upload(&self, src: &[u8], dst: Span<'_, EmulatedMemory>) -> Result<()> {
        self.driver.upload(src, dst)
    }

    fn download(&self, src: Span<'_, EmulatedMemory>, dst: &mut [u8]) -> Result<()> {
        self.driver.download(src, dst)
    }

    fn copy(&self, src: Span<'_, EmulatedMemory>, dst: Span<'_, EmulatedMemory>) -> Result<()> {
        self.driver.copy(src, dst)
    }

    fn zero(&self, dst: Span<'_, EmulatedMemory>) -> Result<()> {
        self.driver.zero(dst)
    }

    fn discard(&self, dead: Span<'_, EmulatedMemory>) {
        self.driver.discard(dead);
    }

    fn launch(
        &self,
        kernel: &'static str,
        config: LaunchConfig,
        args: &[Arg<'_, EmulatedMemory>],
    ) -> Result<()> {
        self.driver.launch(kernel, config, args)
    }

    fn has_kernel(&self, kernel: &'static str) -> bool {
        self.driver.has_kernel(kernel)
    }

    fn event(&self) -> Result<EmulatedEvent> {
        self.driver.event()
    }

    fn wait(&self, event: &EmulatedEvent) -> Result<()> {
        let number = self.memory.waits[self.handle].fetch_add(1, Ordering::Relaxed);
        if [self.handle, number] == self.memory.forgotten { Ok(()) } else { self.driver.wait(event) }
    }

    fn synchronize(&self) -> Result<()> {
        self.driver.synchronize()
    }

    fn fork(&self) -> Result<Self> {
        let (driver, memory) = (self.driver.fork()?, Arc::clone(&self.memory));
        Ok(Forgetful { driver, handle: self.handle + 1, memory })
    }

    fn capture<E: From<KernelError>>(
        &self,
        work: impl FnOnce() -> std::result::Result<(), E>,
    ) -> std::result::Result<EmulatedGraph, E> {
        self.driver.capture(work)
    }

    fn replay(&self, graph: &EmulatedGraph) -> Result<()> {
        self.driver.replay(graph)
    }
}

impl Moments for Forgetful {
    type Moment = EmulatedMoment;

    fn moment(&self) -> Result<EmulatedMoment> {
        self.driver.moment()
    }

    fn elapsed(&self, from: &EmulatedMoment, to: &EmulatedMoment) -> Result<Option<Duration>> {
        self.driver.elapsed(from, to)
    }

    fn reached_at(&self, moment: &EmulatedMoment) -> Result<Option<Instant>> {
        self.driver.reached_at(moment)
    }
}

/// A call of every kind that all ranks make.
pub(crate) fn collectives() -> [Call; 5] {
    let sum = ReduceOp::Sum;
    [
        Call::AllReduce(sum),
        Call::ReduceScatter(sum),
        Call::AllGather,
        Call::AllToAll,
        Call::Broadcast { root: 0 },
    ]
}

/// Rank 0 sends to the last; the others have nothing to do.
fn end_of_message(rank: usize, size: usize) -> Option<Call> {
    match rank {
        0 => Some(Call::Send { to: size - 1 }),
        _ if rank + 1 == size => Some(Call::Recv { from: 0 }),
        _ => None,
    }
}

/// As [`end_of_message`], for a rank's own end.
pub(crate) fn message<D: Device>(world: &mut dyn Communicator<D>, block: Block<D>) {
    if let Some(call) = end_of_message(world.rank(), world.size()) {
        drop(world.run(call, block).unwrap());
    }
}

/// When streams do their work: those of the rank that forgets, and those of the others. Where one stream that waits makes
/// all others hurry, it covers up for those that do not wait.
const SETTINGS: [[Completion; 2]; 6] = [
    [Completion::Late, Completion::Late],
    [OWN_LATE, Completion::Late],
    [OWN_EARLY, Completion::Late],
    [Completion::Early, Completion::Late],
    [Completion::Late, OWN_LATE],
    [Completion::Late, Completion::Early],
];

/// The first stream of a device, its rank's own, is late, and that of its communicator early.
const OWN_LATE: Completion = Completion::Mixed(!1);
const OWN_EARLY: Completion = Completion::Mixed(1);

/// The call that a rank makes.
type Calls = fn(Call, usize, usize) -> Option<Call>;

/// What a rank gets, as copied by its own stream, which then writes over it. `reads` lets the ranks read in the order
/// that is tried.
fn got(
    world: &mut dyn Communicator<Cuda<Forgetful>>,
    ctx: &Context<Cuda<Forgetful>>,
    call: Option<Call>,
    reads: &mut dyn FnMut(&mut dyn FnMut()),
) -> std::result::Result<Vec<f32>, CommError> {
    let (rank, len) = (world.rank(), 12 * world.size());
    let values: Vec<f32> = (0..len).map(|i| (1 + i + 100 * rank) as f32).collect();
    let mut copied = ctx.arena.block(Class::Activations, DType::F32, len)?;
    let mut result = Ok(());
    if let Some(call) = call {
        let block = upload(ctx, &values);
        result = world.start(call, block).and_then(|pending| pending.wait()).and_then(|mut block| {
            ctx.device.copy(block.view([len]), copied.view_mut([len]))?;
            Ok(ctx.device.zero(block.view_mut([len]))?)
        });
    } else {
        ctx.device.zero(copied.view_mut([len]))?;
    }
    let mut read = vec![0.0; len];
    reads(&mut || {
        if result.is_ok() {
            result = ctx.device.download(copied.view([len]), &mut read).map_err(CommError::from);
        }
    });
    result.map(|()| read)
}

/// What all ranks get, or what one of them met; and whether a wait was forgotten.
fn run(
    call: Call,
    calls: Calls,
    size: usize,
    [who, handle, wait]: [usize; 3],
    [own, other]: [Completion; 2],
    last_reads_first: bool,
) -> (std::result::Result<Vec<Vec<f32>>, String>, bool) {
    let driver = |rank| match rank == who {
        true => Forgetful::new(own, [handle, wait]),
        false => Forgetful::new(other, NOTHING),
    };
    let drivers: Vec<_> = (0..size).map(driver).collect();
    let barrier = Barrier::new(size);
    let results = on_ranks(drivers.clone(), 1 << 16, Overlap::Background, |world, ctx, _| {
        let rank = world.rank();
        let mut reads = |read: &mut dyn FnMut()| {
            for turn in 0..size {
                barrier.wait();
                if turn == if last_reads_first { size - 1 - rank } else { rank } {
                    read();
                }
            }
            barrier.wait();
        };
        got(world, &ctx, calls(call, rank, size), &mut reads).map_err(|error| error.to_string())
    });
    let has_forgotten = drivers.get(who).is_some_and(Forgetful::has_forgotten);
    (results.into_iter().collect(), has_forgotten)
}

/// No handle, no wait.
const NOTHING: [usize; 2] = [usize::MAX; 2];

/// Forgets the waits of a call one by one; returns how many there are.
fn forget_each(call: Call, calls: Calls, size: usize) -> usize {
    let settings = || SETTINGS.into_iter().flat_map(|setting| [(setting, false), (setting, true)]);
    let tried =
        |forgotten| settings().map(move |(setting, order)| run(call, calls, size, forgotten, setting, order));
    let mut right = tried([0, NOTHING[0], NOTHING[1]]).map(|(got, _)| got.unwrap());
    let right = {
        let first = right.next().unwrap();
        assert!(right.all(|got| same(call, size, &got, &first)), "{call:?} depends on streams");
        first
    };
    let mut count = 0;
    for (rank, handle) in (0..size).flat_map(|rank| [(rank, 0), (rank, 1)]) {
        for wait in 0.. {
            let mut is_there = false;
            let shows = tried([rank, handle, wait]).any(|(got, has_forgotten)| {
                is_there |= has_forgotten;
                !got.is_ok_and(|got| same(call, size, &got, &right))
            });
            if !is_there && !shows {
                break;
            }
            assert!(
                shows,
                "{call:?} of {size} ranks: wait {wait} of handle {handle} of rank {rank} is not needed"
            );
            count += 1;
        }
    }
    count
}

/// Compares what a call defines.
fn same(call: Call, size: usize, a: &[Vec<f32>], b: &[Vec<f32>]) -> bool {
    let defined = |rank: usize| match call {
        Call::ReduceScatter(_) => 12 * rank..12 * (rank + 1),
        _ => 0..12 * size,
    };
    (0..size).all(|rank| a[rank][defined(rank)] == b[rank][defined(rank)])
}

#[test]
fn every_wait_of_a_call_is_needed_and_its_lack_shows() {
    for size in [2, 3] {
        for call in collectives() {
            let count = forget_each(call, |call, _, _| Some(call), size);
            println!("{call:?} of {size} ranks: {count} waits");
            // Own block, blocks of others before and after, and the rank's own stream behind the call.
            assert!(count >= 4 * size - 2, "{call:?}: {count}");
        }
        let send = Call::Send { to: size - 1 };
        let count = forget_each(send, |_, rank, size| end_of_message(rank, size), size);
        assert_eq!(count, 4, "the receiver's two and both ranks' own streams");
    }
}
