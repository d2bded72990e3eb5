//! Ranks that do not make the same call.

use tisserand_collectives::{Call, CommError, ReduceOp};
use tisserand_kernels::{DType, Device};

use super::Rank;
use super::data::{check_call, input, inputs};

pub(super) fn ranks_that_differ_are_named<D: Device>(rank: &mut Rank<'_, D>) {
    let (me, size) = (rank.world.rank(), rank.world.size());
    if size == 1 {
        return;
    }
    let sum = Call::AllReduce(ReduceOp::Sum);
    let odd = size - 1;
    let cases = [
        ("kind", sum, DType::F32, 16 * size, Call::AllGather, DType::F32, 16 * size),
        ("length", sum, DType::F32, 16 * size, sum, DType::F32, 32 * size),
        ("dtype", sum, DType::F32, 16 * size, sum, DType::U32, 16 * size),
        ("operation", sum, DType::F32, 16, Call::AllReduce(ReduceOp::Max), DType::F32, 16),
        ("root", Call::Broadcast { root: 0 }, DType::U8, 9, Call::Broadcast { root: 1 }, DType::U8, 9),
    ];
    for (axis, first, first_dtype, first_len, second, second_dtype, second_len) in cases {
        let mut comm = rank.world.split(axis, 0, me).unwrap();
        // A call before, so that the number is not the first one.
        check_call(&mut *comm, &rank.ctx, sum, DType::U32, &inputs(1, size, DType::U32, 10));
        let (call, dtype, len) =
            if me == odd { (second, second_dtype, second_len) } else { (first, first_dtype, first_len) };
        let error = comm.run(call, rank.block(dtype, &input(0, me, dtype, len))).err().expect(axis);
        assert!(matches!(error, CommError::Mismatch(_)), "{error}");
        let text = error.to_string();
        for word in [axis, "rank 0 calls", &format!("rank {odd} calls"), first.kind().name(), dtype.name()] {
            assert!(text.contains(word), "{word} in: {text}");
        }
        // The communicator has ended; nobody waits for a later call.
        assert!(comm.run(sum, rank.block(DType::F32, &[0; 4])).is_err());
    }
}

pub(super) fn ends_of_a_message_that_differ_are_named<D: Device>(rank: &mut Rank<'_, D>) {
    let (me, size) = (rank.world.rank(), rank.world.size());
    let mut comm = rank.world.split("pp", 0, me).unwrap();
    let last = size - 1;
    if size > 1 && (me == 0 || me == last) {
        let (call, len) = if me == 0 { (Call::Send { to: last }, 10) } else { (Call::Recv { from: 0 }, 12) };
        let error = comm.run(call, rank.block(DType::F32, &input(0, me, DType::F32, len))).err().unwrap();
        assert!(matches!(error, CommError::Mismatch(_)), "{error}");
        let text = error.to_string();
        for word in ["rank 0 sends 10 f32", &format!("rank {last} receives 12 f32")] {
            assert!(text.contains(word), "{word} in: {text}");
        }
    }
}
