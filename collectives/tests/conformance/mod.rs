//! What every communicator must do, whatever carries it: each rank of a world of any size runs [`all`] with
//! its communicator and its memory. Every rank knows what every other puts in, hence what must come out.

mod data;
mod misuse;

use tisserand_collectives::{
    Call, Collective, Communicator, Pending, ReduceOp, Traffic, mpi::workspace_elements,
};
use tisserand_kernels::{Block, Class, Context, DType, Device};

use data::{block, bytes, check_call, check_result, combined, input, inputs, mix};

const DTYPES: [DType; 5] = [DType::F32, DType::Bf16, DType::U32, DType::I32, DType::U8];
const OPS: [ReduceOp; 2] = [ReduceOp::Sum, ReduceOp::Max];

/// One rank's end of a world.
pub(crate) struct Rank<'a, D: Device> {
    pub(crate) world: &'a mut dyn Communicator<D>,
    pub(crate) ctx: Context<D>,
}

type Check<D> = fn(&mut Rank<'_, D>);

/// Every check, with its name. Those at the end fail communicators, never the world.
pub(crate) fn checks<D: Device>() -> Vec<(&'static str, Check<D>)> {
    vec![
        ("every call of every dtype", every_call_of_every_dtype),
        ("max hands on NaN", max_hands_on_nan),
        ("parts of blocks", parts_of_blocks),
        ("many calls on two communicators", many_calls_on_two_communicators),
        ("a late rank on one axis holds up no other", a_late_rank_holds_up_no_other_axis),
        ("rings where all send first", rings_where_all_send_first),
        ("messages beside collectives", messages_beside_collectives),
        ("split by color and key", split_by_color_and_key),
        ("barrier", barrier),
        ("workspace lasts until wait", workspace_lasts_until_wait),
        ("the audit counts full tensors", the_audit_counts_full_tensors),
        ("ranks that differ are named", misuse::ranks_that_differ_are_named),
        ("ends of a message that differ are named", misuse::ends_of_a_message_that_differ_are_named),
    ]
}

/// Runs every check whose name `is_due`; `report` is told of each that has passed.
pub(crate) fn all<D: Device>(
    rank: &mut Rank<'_, D>,
    is_due: impl Fn(&str) -> bool,
    mut report: impl FnMut(&str),
) {
    for (name, check) in checks().into_iter().filter(|(name, _)| is_due(name)) {
        check(rank);
        // The block of a call that has failed may be in the hands of another rank still.
        let left = rank.ctx.arena.usage().total();
        assert!(left == 0 || name.contains("differ"), "{name}: {left} bytes left in the arena");
        report(name);
    }
}

impl<D: Device> Rank<'_, D> {
    fn block(&self, dtype: DType, bytes: &[u8]) -> Block<D> {
        block(&self.ctx, dtype, bytes)
    }
}

fn every_call_of_every_dtype<D: Device>(rank: &mut Rank<'_, D>) {
    let size = rank.world.size();
    for dtype in DTYPES {
        for len in [0, 1, size - 1, size + 1, 6 * size, 1000 * size + size / 2, 70_001] {
            let inputs = inputs(len as u64, size, dtype, len);
            for op in OPS {
                check_call(rank.world, &rank.ctx, Call::AllReduce(op), dtype, &inputs);
            }
            for root in 0..size {
                check_call(rank.world, &rank.ctx, Call::Broadcast { root }, dtype, &inputs);
            }
        }
        for len in [0, 2 * size, 14 * size, 10_006 * size] {
            let inputs = inputs(len as u64, size, dtype, len);
            for call in OPS.map(Call::ReduceScatter).into_iter().chain([Call::AllGather, Call::AllToAll]) {
                check_call(rank.world, &rank.ctx, call, dtype, &inputs);
            }
        }
    }
}

fn max_hands_on_nan<D: Device>(rank: &mut Rank<'_, D>) {
    let size = rank.world.size();
    let len = 40 * size;
    let inputs: Vec<Vec<u8>> = (0..size)
        .map(|from| {
            let mut input = input(3, from, DType::F32, len);
            for i in (0..len).filter(|i| i % 11 == from % 11) {
                input[4 * i..4 * i + 4].copy_from_slice(&f32::NAN.to_ne_bytes());
            }
            input
        })
        .collect();
    for call in [Call::AllReduce(ReduceOp::Max), Call::ReduceScatter(ReduceOp::Max)] {
        check_call(rank.world, &rank.ctx, call, DType::F32, &inputs);
    }
    let got =
        rank.world.run(Call::AllReduce(ReduceOp::Max), rank.block(DType::F32, &inputs[rank.world.rank()]));
    let first = bytes(&rank.ctx, &got.unwrap())[..4].try_into().unwrap();
    assert!(f32::from_ne_bytes(first).is_nan());
}

fn parts_of_blocks<D: Device>(rank: &mut Rank<'_, D>) {
    let (me, size) = (rank.world.rank(), rank.world.size());
    let (before, part) = (5, 3 * size);
    let inputs = inputs(9, size, DType::Bf16, before + part + 7);
    let mut whole = rank.block(DType::Bf16, &inputs[me]);
    let mut middle = whole.split_off(before);
    let behind = middle.split_off(part);
    middle = rank.world.run(Call::AllReduce(ReduceOp::Sum), middle).unwrap();
    middle.append(behind);
    whole.append(middle);
    let all = combined(ReduceOp::Sum, DType::Bf16, &inputs);
    let (start, end) = (2 * before, 2 * (before + part));
    assert_eq!(bytes(&rank.ctx, &whole)[..start], inputs[me][..start]);
    assert_eq!(bytes(&rank.ctx, &whole)[start..end], all[start..end]);
    assert_eq!(bytes(&rank.ctx, &whole)[end..], inputs[me][end..]);
}

/// A call that is under way, and what is needed to check it.
struct UnderWay<D: Device> {
    call: Call,
    dtype: DType,
    inputs: Vec<Vec<u8>>,
    pending: Pending<D>,
}

fn many_calls_on_two_communicators<D: Device>(rank: &mut Rank<'_, D>) {
    let (me, size) = (rank.world.rank(), rank.world.size());
    let mut other = rank.world.split("other", 0, me).unwrap();
    for round in 0..4_u64 {
        let mut under_way = Vec::new();
        for i in 0..24 {
            let (bits, root) = (mix(round, 0, i), (i + round as usize) % size);
            let op = OPS[i % 2];
            let calls = [
                Call::AllReduce(op),
                Call::ReduceScatter(op),
                Call::AllGather,
                Call::AllToAll,
                Call::Broadcast { root },
            ];
            let call = calls[(bits % 5) as usize];
            let dtype = DTYPES[(bits >> 8) as usize % 5];
            let len = 2 * size * if bits >> 60 == 0 { 20_000 } else { (bits >> 16) as usize % 500 };
            let inputs = inputs(bits, size, dtype, len);
            // Ranks begin the calls of the two in different interleavings.
            let comm: &mut dyn Communicator<D> = if i % 2 == 0 { rank.world } else { &mut *other };
            let pending = comm.start(call, block(&rank.ctx, dtype, &inputs[me])).unwrap();
            under_way.push(UnderWay { call, dtype, inputs, pending });
        }
        // … and wait for them in different orders.
        under_way.sort_by_key(|one| mix(round + 100, me, one.inputs[0].len()));
        for UnderWay { call, dtype, inputs, pending } in under_way {
            let got = pending.wait().unwrap();
            check_result(me, size, call, dtype, &inputs, &bytes(&rank.ctx, &got));
        }
    }
}

/// The last rank begins on the first communicator what the others wait for on it, only after a call on the
/// second one has ended everywhere. So the ranks' calls have no common order, which not every communicator needs.
fn a_late_rank_holds_up_no_other_axis<D: Device>(rank: &mut Rank<'_, D>) {
    let (me, size) = (rank.world.rank(), rank.world.size());
    let mut first = rank.world.split("first", 0, me).unwrap();
    let mut second = rank.world.split("second", 0, me).unwrap();
    let inputs = inputs(5, size, DType::F32, 50_000 * size);
    let begin = |first: &mut dyn Communicator<D>| {
        first.start(Call::AllReduce(ReduceOp::Sum), rank.block(DType::F32, &inputs[me])).unwrap()
    };
    let early = (me + 1 < size).then(|| begin(&mut *first));
    check_call(&mut *second, &rank.ctx, Call::AllGather, DType::F32, &inputs);
    let pending = early.unwrap_or_else(|| begin(&mut *first));
    let got = pending.wait().unwrap();
    check_result(me, size, Call::AllReduce(ReduceOp::Sum), DType::F32, &inputs, &bytes(&rank.ctx, &got));
}

fn rings_where_all_send_first<D: Device>(rank: &mut Rank<'_, D>) {
    let (me, size) = (rank.world.rank(), rank.world.size());
    if size == 1 {
        return;
    }
    let (to, from) = ((me + 1) % size, (me + size - 1) % size);
    for len in [0, 3, 300_000] {
        let inputs = inputs(len as u64, size, DType::U8, len);
        let sends: Vec<_> = (0..3)
            .map(|_| rank.world.start(Call::Send { to }, rank.block(DType::U8, &inputs[me])).unwrap())
            .collect();
        for _ in 0..3 {
            let target = rank.block(DType::U8, &vec![0; len]);
            let got = rank.world.run(Call::Recv { from }, target).unwrap();
            assert!(bytes(&rank.ctx, &got) == inputs[from], "ring of {len} bytes");
        }
        for send in sends {
            assert!(bytes(&rank.ctx, &send.wait().unwrap()) == inputs[me]);
        }
    }
}

/// A send that is received after a collective which began later, and several in a row that stay in order.
fn messages_beside_collectives<D: Device>(rank: &mut Rank<'_, D>) {
    let (me, size) = (rank.world.rank(), rank.world.size());
    let inputs = inputs(8, size, DType::F32, 1000 * size);
    let mut begun = Vec::new();
    if me == 0 && size > 1 {
        for seed in 0..3 {
            let block = rank.block(DType::U32, &input(seed, 0, DType::U32, 77));
            begun.push(rank.world.start(Call::Send { to: size - 1 }, block).unwrap());
        }
    }
    check_call(rank.world, &rank.ctx, Call::AllGather, DType::F32, &inputs);
    if me + 1 == size && size > 1 {
        for seed in 0..3 {
            let target = rank.block(DType::U32, &[0; 4 * 77]);
            let got = rank.world.run(Call::Recv { from: 0 }, target).unwrap();
            assert!(bytes(&rank.ctx, &got) == input(seed, 0, DType::U32, 77), "message {seed}");
        }
    }
    begun.into_iter().for_each(|send| drop(send.wait().unwrap()));
}

fn split_by_color_and_key<D: Device>(rank: &mut Rank<'_, D>) {
    let (me, size) = (rank.world.rank(), rank.world.size());
    // Rows of two in the order of ranks, columns against it.
    let mut row = rank.world.split("row", me / 2, me).unwrap();
    let mut column = rank.world.split("column", me % 2, size - me).unwrap();
    let row_ranks: Vec<usize> = (0..size).filter(|other| other / 2 == me / 2).collect();
    let column_ranks: Vec<usize> = (0..size).rev().filter(|other| other % 2 == me % 2).collect();
    for (comm, ranks) in [(&mut row, &row_ranks), (&mut column, &column_ranks)] {
        assert_eq!(comm.size(), ranks.len());
        assert_eq!(ranks[comm.rank()], me);
        let inputs: Vec<_> = ranks.iter().map(|world_rank| input(2, *world_rank, DType::F32, 1001)).collect();
        check_call(&mut **comm, &rank.ctx, Call::AllReduce(ReduceOp::Sum), DType::F32, &inputs);
    }
    // A part of a part.
    let pair = row.split("alone", row.rank(), 0).unwrap();
    assert_eq!((pair.rank(), pair.size()), (0, 1));
    // Equal keys: in the order of ranks.
    let same = rank.world.split("same", 7, 0).unwrap();
    assert_eq!((same.rank(), same.size()), (me, size));
}

fn barrier<D: Device>(rank: &mut Rank<'_, D>) {
    let before = rank.world.audit().of(Collective::Barrier);
    for _ in 0..20 {
        rank.world.barrier().unwrap();
    }
    assert_eq!(rank.world.audit().of(Collective::Barrier).calls, before.calls + 20);
}

fn workspace_lasts_until_wait<D: Device>(rank: &mut Rank<'_, D>) {
    let (me, size) = (rank.world.rank(), rank.world.size());
    let in_use = |ctx: &Context<D>| ctx.arena.usage().of(Class::Communication);
    let before = in_use(&rank.ctx);
    let call = Call::AllReduce(ReduceOp::Sum);
    let block = rank.block(DType::F32, &input(1, me, DType::F32, 1001));
    let pending = rank.world.start(call, block).unwrap();
    let begun = in_use(&rank.ctx);
    rank.world.barrier().unwrap();
    assert!(pending.is_done());
    assert_eq!(in_use(&rank.ctx), begun);
    let _block = pending.wait().unwrap();
    assert_eq!(in_use(&rank.ctx), before);
    // Of a communicator that needs workspace, as much as a dry run would have said.
    let elements = workspace_elements(call, size, 1001);
    assert!(begun == before || begun - before == (4 * elements).next_multiple_of(256));
}

fn the_audit_counts_full_tensors<D: Device>(rank: &mut Rank<'_, D>) {
    let (me, size) = (rank.world.rank(), rank.world.size());
    let before = rank.world.audit();
    let inputs = inputs(4, size, DType::Bf16, 20 * size);
    check_call(rank.world, &rank.ctx, Call::AllGather, DType::Bf16, &inputs);
    check_call(rank.world, &rank.ctx, Call::AllToAll, DType::Bf16, &inputs);
    check_call(rank.world, &rank.ctx, Call::AllGather, DType::Bf16, &inputs);
    let since = rank.world.audit().since(&before);
    let payload_bytes = 40 * size as u64;
    assert_eq!(
        since.of(Collective::AllGather),
        Traffic { calls: 2, payload_bytes: 2 * payload_bytes },
        "rank {me}"
    );
    assert_eq!(since.of(Collective::AllToAll), Traffic { calls: 1, payload_bytes: payload_bytes / 2 });
    assert_eq!(since.of(Collective::ReduceScatter), Traffic::default());
}
