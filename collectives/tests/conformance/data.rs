//! What ranks put in, the same at every rank, and what must come out of a call.

use tisserand_collectives::{Call, Communicator, ReduceOp};
use tisserand_kernels::ops::elementwise;
use tisserand_kernels::{Block, Class, Context, Cpu, DType, Device, TensorRef, match_element};

/// A number for every element of every rank; the same at every rank.
pub(super) fn mix(seed: u64, rank: usize, i: usize) -> u64 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ ((rank as u64) << 40) ^ i as u64;
    for _ in 0..2 {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    }
    x ^ (x >> 31)
}

/// What a rank puts in: numbers of many sizes, so that the order of a sum shows.
pub(super) fn input(seed: u64, rank: usize, dtype: DType, len: usize) -> Vec<u8> {
    let float = |bits: u64| (bits % 2001) as f32 / 7.0 - 140.0;
    let scaled = |bits: u64| float(bits) * (((bits >> 32) % 24) as f32 - 12.0).exp2();
    let bits = |i| mix(seed, rank, i);
    (0..len)
        .flat_map(|i| match dtype {
            DType::F32 => scaled(bits(i)).to_ne_bytes().to_vec(),
            DType::Bf16 => ((scaled(bits(i)).to_bits() >> 16) as u16).to_ne_bytes().to_vec(),
            DType::U32 | DType::I32 => (bits(i) as u32).to_ne_bytes().to_vec(),
            DType::U8 => vec![bits(i) as u8],
        })
        .collect()
}

pub(super) fn block<D: Device>(ctx: &Context<D>, dtype: DType, bytes: &[u8]) -> Block<D> {
    let len = bytes.len() / dtype.size_bytes();
    let mut block = ctx.arena.block(Class::Gradients, dtype, len).unwrap();
    match_element!(dtype, T => {
        let mut values = vec![<T as bytemuck::Zeroable>::zeroed(); len];
        bytemuck::cast_slice_mut(&mut values).copy_from_slice(bytes);
        ctx.device.upload(&values, block.view_mut([len])).unwrap();
    });
    block
}

pub(super) fn bytes<D: Device>(ctx: &Context<D>, block: &Block<D>) -> Vec<u8> {
    let len = block.len();
    match_element!(block.dtype(), T => {
        let mut values = vec![<T as bytemuck::Zeroable>::zeroed(); len];
        ctx.device.download(block.view([len]), &mut values).unwrap();
        bytemuck::cast_slice(&values).to_vec()
    })
}

/// The tree over all inputs, in the order of ranks: what the host makes of them.
pub(super) fn combined(op: ReduceOp, dtype: DType, inputs: &[Vec<u8>]) -> Vec<u8> {
    let bytes_of_all = inputs.iter().map(|input| input.len().next_multiple_of(256)).sum();
    let ctx = Context::new(Cpu::new(1).unwrap(), bytes_of_all).unwrap();
    let mut first = block(&ctx, dtype, &inputs[0]);
    let others: Vec<Block<Cpu>> = inputs[1..].iter().map(|input| block(&ctx, dtype, input)).collect();
    let others: Vec<TensorRef<'_, Cpu>> = others.iter().map(|other| other.view([other.len()])).collect();
    let len = first.len();
    elementwise::combine(&ctx.device, op, &[], first.view_mut([len]), &others).unwrap();
    bytes(&ctx, &first)
}

/// Runs a call on what `inputs` say, and checks every byte that the call defines.
pub(super) fn check_call<D: Device>(
    comm: &mut dyn Communicator<D>,
    ctx: &Context<D>,
    call: Call,
    dtype: DType,
    inputs: &[Vec<u8>],
) {
    let begun = comm.start(call, block(ctx, dtype, &inputs[comm.rank()])).unwrap();
    let got = begun.wait().unwrap();
    check_result(comm.rank(), comm.size(), call, dtype, inputs, &bytes(ctx, &got));
}

pub(super) fn check_result(
    rank: usize,
    size: usize,
    call: Call,
    dtype: DType,
    inputs: &[Vec<u8>],
    got: &[u8],
) {
    let len = inputs[rank].len() / dtype.size_bytes();
    let what = format!("{call:?} of {len} {dtype} at rank {rank} of {size}");
    let part = |bytes: usize, i: usize| i * bytes / size..(i + 1) * bytes / size;
    let all_bytes = inputs[rank].len();
    match call {
        Call::AllReduce(op) => assert!(got == combined(op, dtype, inputs), "{what}"),
        Call::ReduceScatter(op) => {
            let own = part(all_bytes, rank);
            assert!(got[own.clone()] == combined(op, dtype, inputs)[own], "{what}");
        }
        Call::AllGather => {
            for i in 0..size {
                assert!(got[part(all_bytes, i)] == inputs[i][part(all_bytes, i)], "{what}: slice {i}");
            }
        }
        Call::AllToAll => {
            let half = all_bytes / 2;
            assert!(got[..half] == inputs[rank][..half], "{what}: what was sent");
            for i in 0..size {
                assert!(got[half..][part(half, i)] == inputs[i][part(half, rank)], "{what}: slice {i}");
            }
        }
        Call::Broadcast { root } => assert!(got == inputs[root], "{what}"),
        Call::Send { .. } => assert!(got == inputs[rank], "{what}"),
        Call::Recv { from } => assert!(got == inputs[from], "{what}"),
    }
}

pub(super) fn inputs(seed: u64, size: usize, dtype: DType, len: usize) -> Vec<Vec<u8>> {
    (0..size).map(|rank| input(seed, rank, dtype, len)).collect()
}
