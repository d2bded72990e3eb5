//! What every communicator must do: one body for all of them.
//!
//! Ranks fill their blocks with numbers that are functions of (rank, index), so each knows what it must end
//! with. Sums are held against [`elementwise::combine`] bit for bit: all communicators add in one order.

use std::time::Duration;

use half::bf16;
use tisserand_collectives::{Call, CommError, Communicator, Progress, ReduceOp};
use tisserand_kernels::DType;
use tisserand_kernels::ops::elementwise;
use tisserand_kernels::testing::{bits, upload};
use tisserand_kernels::{Block, Context, Cpu, Element, Float, match_element};

/// A way to run ranks.
pub(crate) trait World {
    /// Runs `body` on `size` ranks and returns when all have ended; a rank's panic is this call's.
    fn run(&self, size: usize, timeout: Duration, body: &(dyn Fn(&mut Rank) + Sync));
}

/// What a rank has.
pub(crate) struct Rank {
    pub(crate) ctx: Context<Cpu>,
    pub(crate) communicator: Box<dyn Communicator<Cpu>>,
    pub(crate) progress: Progress,
}

impl Rank {
    pub(crate) fn rank(&self) -> usize {
        self.communicator.rank()
    }

    fn size(&self) -> usize {
        self.communicator.size()
    }

    fn run(&mut self, call: Call, block: Block<Cpu>) -> Block<Cpu> {
        self.communicator.run(call, block).unwrap()
    }
}

pub(crate) fn context() -> Context<Cpu> {
    Context::new(Cpu::new(1).unwrap(), 64 << 20).unwrap()
}

const PATIENCE: Duration = Duration::from_secs(60);
const DTYPES: [DType; 5] = [DType::F32, DType::Bf16, DType::U32, DType::I32, DType::U8];
/// Elements per rank: none, odd ones, more than one task of the CPU device.
const LENGTHS: [usize; 4] = [0, 1, 37, 20_011];

/// Element `index` of rank `rank`'s block: exact in every dtype up to 8 bits, of varied size otherwise.
trait Number: Element {
    fn number(rank: usize, index: usize) -> Self;
}

macro_rules! numbers {
    ($($float:ty),*; $($integer:ty),*) => {
        $(impl Number for $float {
            fn number(rank: usize, index: usize) -> Self {
                let mixed = (rank * 7919 + index * 104_729 + 13) % 8191;
                Float::from_f32((mixed as f32 - 4000.0) * 1.37_f32.powi((index % 11) as i32))
            }
        })*
        $(impl Number for $integer {
            fn number(rank: usize, index: usize) -> Self {
                (rank * 7919 + index * 104_729 + 13) as $integer
            }
        })*
    };
}
numbers!(f32, bf16; u32, i32, u8);

/// The whole suite.
pub(crate) fn all(world: &dyn World, sizes: &[usize]) {
    for &size in sizes {
        world.run(size, PATIENCE, &|rank| {
            for dtype in DTYPES {
                match_element!(dtype, T => for len in LENGTHS {
                    gathers::<T>(rank, len);
                    exchanges::<T>(rank, len);
                    broadcasts::<T>(rank, len);
                    messages::<T>(rank, len);
                    reduces::<T>(rank, len);
                });
            }
            parts_of_blocks(rank);
            many_in_flight(rank);
            splits(rank);
            the_largest_is_nan_if_any_is(rank);
            audits(rank);
            notes(rank);
            rank.communicator.barrier().unwrap();
        });
        if size > 1 {
            mismatches(world, size);
        }
    }
}

fn values<T: Number>(rank: usize, len: usize) -> Vec<T> {
    (0..len).map(|index| T::number(rank, index)).collect()
}

fn contents<T: Element>(block: &Block<Cpu>) -> Vec<T> {
    block.view([block.len()]).as_slice::<T>().to_vec()
}

fn gathers<T: Number>(rank: &mut Rank, len: usize) {
    let (me, n) = (rank.rank(), rank.size());
    let mut own = vec![T::zeroed(); n * len];
    own[me * len..][..len].copy_from_slice(&values::<T>(me, len));
    let block = upload(&rank.ctx, &own);
    let block = rank.run(Call::AllGather, block);
    let want: Vec<T> = (0..n).flat_map(|rank| values::<T>(rank, len)).collect();
    assert_eq!(contents::<T>(&block), want, "all_gather of {len} {}", T::DTYPE);
}

fn exchanges<T: Number>(rank: &mut Rank, len: usize) {
    let (me, n) = (rank.rank(), rank.size());
    let mut both = values::<T>(me, n * len);
    both.resize(2 * n * len, T::zeroed());
    let block = upload(&rank.ctx, &both);
    let block = rank.run(Call::AllToAll, block);
    let want: Vec<T> =
        (0..n).flat_map(|from| values::<T>(from, n * len)[me * len..][..len].to_vec()).collect();
    assert_eq!(contents::<T>(&block)[n * len..], want, "all_to_all of {len} {}", T::DTYPE);
    assert_eq!(contents::<T>(&block)[..n * len], values::<T>(me, n * len), "what is sent stays");
}

fn broadcasts<T: Number>(rank: &mut Rank, len: usize) {
    for root in 0..rank.size() {
        let block = upload(&rank.ctx, &values::<T>(rank.rank(), len));
        let block = rank.run(Call::Broadcast { root }, block);
        assert_eq!(contents::<T>(&block), values::<T>(root, len), "broadcast of {len} {}", T::DTYPE);
    }
}

/// Everyone sends to everyone before anyone receives.
fn messages<T: Number>(rank: &mut Rank, len: usize) {
    let (me, n) = (rank.rank(), rank.size());
    let others: Vec<usize> = (0..n).filter(|&other| other != me).collect();
    let mut sent = Vec::new();
    for &to in &others {
        let block = upload(&rank.ctx, &values::<T>(me * n + to, len));
        sent.push(rank.communicator.start(Call::Send { to }, block).unwrap());
    }
    for &from in others.iter().rev() {
        let block = upload(&rank.ctx, &vec![T::zeroed(); len]);
        let block = rank.run(Call::Recv { from }, block);
        assert_eq!(contents::<T>(&block), values::<T>(from * n + me, len));
    }
    for (pending, to) in sent.into_iter().zip(others) {
        assert_eq!(contents::<T>(&pending.wait().unwrap()), values::<T>(me * n + to, len));
    }
}

/// What `combine` makes of all ranks' blocks.
fn combined<T: Number>(ctx: &Context<Cpu>, op: ReduceOp, n: usize, len: usize) -> Vec<T> {
    let mut own = upload(ctx, &values::<T>(0, len));
    let others: Vec<_> = (1..n).map(|rank| upload(ctx, &values::<T>(rank, len))).collect();
    let after: Vec<_> = others.iter().map(|other| other.view([len])).collect();
    elementwise::combine(&ctx.device, op, &[], own.view_mut([len]), &after).unwrap();
    contents::<T>(&own)
}

fn reduces<T: Number>(rank: &mut Rank, len: usize) {
    let (me, n) = (rank.rank(), rank.size());
    for op in [ReduceOp::Sum, ReduceOp::Max] {
        let want = combined::<T>(&rank.ctx, op, n, n * len);
        let block = upload(&rank.ctx, &values::<T>(me, n * len));
        let block = rank.run(Call::ReduceScatter(op), block);
        assert_eq!(contents::<T>(&block)[me * len..][..len], want[me * len..][..len], "{op:?} {}", T::DTYPE);
        // Any length, also one that the ranks do not divide.
        for len in [n * len, len] {
            let block = upload(&rank.ctx, &values::<T>(me, len));
            let block = rank.run(Call::AllReduce(op), block);
            assert_eq!(contents::<T>(&block), combined::<T>(&rank.ctx, op, n, len), "{op:?} {}", T::DTYPE);
        }
    }
}

/// Collectives on a part of a block leave the rest as it is.
fn parts_of_blocks(rank: &mut Rank) {
    let (me, n) = (rank.rank(), rank.size());
    let mut block = upload(&rank.ctx, &values::<f32>(me, 3 + 5 * n + 4));
    let mut part = block.split_off(3);
    let rest = part.split_off(5 * n);
    let mut part = rank.run(Call::AllReduce(ReduceOp::Sum), part);
    part.append(rest);
    block.append(part);
    let (got, before) = (contents::<f32>(&block), values::<f32>(me, 3 + 5 * n + 4));
    assert_eq!(got[..3], before[..3]);
    assert_eq!(got[3 + 5 * n..], before[3 + 5 * n..]);
    assert_eq!(got[3..3 + 5 * n], combined::<f32>(&rank.ctx, ReduceOp::Sum, n, 3 + 5 * n)[3..]);
}

/// Calls on two communicators, waited for in another order than that in which they were started.
fn many_in_flight(rank: &mut Rank) {
    let (me, n) = (rank.rank(), rank.size());
    let mut other = rank.communicator.split("other", 0, n - me).unwrap();
    assert_eq!(other.rank(), n - 1 - me);
    let mut pending = Vec::new();
    for i in 0..20 {
        let block = upload(&rank.ctx, &values::<f32>(me + i, n * 100));
        let communicator = if i % 3 == 0 { other.as_mut() } else { rank.communicator.as_mut() };
        pending.push((i, communicator.start(Call::AllReduce(ReduceOp::Sum), block).unwrap()));
        if i % 4 == 3 && me % 2 == 1 {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    for (i, pending) in pending.into_iter().rev() {
        let got = bits(&rank.ctx, &pending.wait().unwrap());
        let order = |place: usize| if i % 3 == 0 { n - 1 - place } else { place };
        let mut own = upload(&rank.ctx, &values::<f32>(order(0) + i, n * 100));
        let others: Vec<_> =
            (1..n).map(|place| upload(&rank.ctx, &values::<f32>(order(place) + i, n * 100))).collect();
        let after: Vec<_> = others.iter().map(|block| block.view([n * 100])).collect();
        elementwise::combine(&rank.ctx.device, ReduceOp::Sum, &[], own.view_mut([n * 100]), &after).unwrap();
        assert_eq!(got, bits(&rank.ctx, &own), "call {i}");
    }
}

/// Pairs, and then the ranks of a pair alone.
fn splits(rank: &mut Rank) {
    let (me, n) = (rank.rank(), rank.size());
    let mut pair = rank.communicator.split("pair", me / 2, 0).unwrap();
    let members: Vec<usize> = (0..n).filter(|other| other / 2 == me / 2).collect();
    assert_eq!((pair.rank(), pair.size()), (me % 2, members.len()));
    let mut own = vec![0_u32; members.len()];
    own[me % 2] = me as u32;
    let block = pair.run(Call::AllGather, upload(&rank.ctx, &own)).unwrap();
    assert_eq!(contents::<u32>(&block), members.iter().map(|&m| m as u32).collect::<Vec<_>>());
    let mut alone = pair.split("alone", me % 2, 0).unwrap();
    assert_eq!((alone.rank(), alone.size()), (0, 1));
    let block = alone.run(Call::AllReduce(ReduceOp::Sum), upload(&rank.ctx, &[5_u32])).unwrap();
    assert_eq!(contents::<u32>(&block), [5]);
}

fn the_largest_is_nan_if_any_is(rank: &mut Rank) {
    for nan in 0..rank.size() {
        let value = if rank.rank() == nan { f32::NAN } else { rank.rank() as f32 };
        let block = upload(&rank.ctx, &[value]);
        let block = rank.run(Call::AllReduce(ReduceOp::Max), block);
        assert!(contents::<f32>(&block)[0].is_nan());
    }
}

fn audits(rank: &mut Rank) {
    use tisserand_collectives::{Collective, Traffic};
    let (n, before) = (rank.size(), rank.communicator.audit());
    for _ in 0..2 {
        let block = upload(&rank.ctx, &vec![bf16::ZERO; 6 * n]);
        rank.run(Call::AllGather, block);
        let block = upload(&rank.ctx, &vec![0.0_f32; 6 * n]);
        rank.run(Call::AllToAll, block);
    }
    let audit = rank.communicator.audit().since(&before);
    let bytes = 12 * n as u64;
    assert_eq!(audit.of(Collective::AllGather), Traffic { calls: 2, payload_bytes: 2 * bytes });
    assert_eq!(audit.of(Collective::AllToAll), Traffic { calls: 2, payload_bytes: 2 * bytes });
    assert_eq!(audit.of(Collective::ReduceScatter), Traffic::default());
}

fn notes(rank: &mut Rank) {
    rank.progress.note(|activity| activity.unit = Some("block 3".into()));
    let block = upload(&rank.ctx, &vec![0.0_f32; rank.size()]);
    rank.run(Call::AllGather, block);
    if rank.size() > 1 {
        let (activity, _) = rank.progress.read();
        let collective = activity.collective.unwrap();
        assert_eq!((&*collective.kind, collective.unit.as_deref()), ("all_gather", Some("block 3")));
        assert!(collective.done);
    }
}

/// Ranks that call different things are told so by name.
fn mismatches(world: &dyn World, size: usize) {
    let last = size - 1;
    let cases: [(&str, &str, &(dyn Fn(&Rank) -> (Call, Block<Cpu>) + Sync)); 4] = [
        ("all_gather", "reduce_scatter", &|rank| {
            let call = if rank.rank() == last { Call::ReduceScatter(ReduceOp::Sum) } else { Call::AllGather };
            (call, upload(&rank.ctx, &vec![0.0_f32; rank.size()]))
        }),
        ("Sum", "Max", &|rank| {
            let op = if rank.rank() == last { ReduceOp::Max } else { ReduceOp::Sum };
            (Call::AllReduce(op), upload(&rank.ctx, &[0.0_f32]))
        }),
        ("of 8 f32", "of 9 f32", &|rank| {
            let len = if rank.rank() == last { 9 } else { 8 };
            (Call::Broadcast { root: 0 }, upload(&rank.ctx, &vec![0.0_f32; len]))
        }),
        ("of 8 f32", "of 8 u32", &|rank| {
            let block = if rank.rank() == last {
                upload(&rank.ctx, &[0_u32; 8])
            } else {
                upload(&rank.ctx, &[0.0_f32; 8])
            };
            (Call::AllReduce(ReduceOp::Sum), block)
        }),
    ];
    for (some, other, case) in cases {
        world.run(size, PATIENCE, &|rank| {
            let (call, block) = case(rank);
            let error = rank.communicator.run(call, block).err().unwrap();
            assert!(matches!(error, CommError::Mismatch(_)), "{error}");
            let text = error.to_string();
            assert!(text.contains(some) && text.contains(other), "{text}");
            assert!(text.contains(&format!("rank {last}")), "{text}");
        });
    }
}
