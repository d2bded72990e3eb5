//! A call in NCCL's terms: addresses, numbers of elements, codes. Pure.

use std::ffi::c_int;

use tisserand_kernels::DType;

use crate::ReduceOp;
use crate::messages::{Message, Place};
use crate::nccl::plan::Transfer;

/// One of NCCL's calls. Addresses are in the GPU's memory, lengths in elements of the block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Typed {
    pub(super) operation: Operation,
    /// `ncclDataType_t`.
    pub(super) type_code: c_int,
}

/// What it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operation {
    /// In place.
    AllReduce { at: u64, len: usize, op: c_int },
    /// From `size` slices of `len` elements at `from`.
    ReduceScatter { from: u64, to: u64, len: usize, op: c_int },
    /// `len` elements at `from`, to `size` slices at `to`.
    AllGather { from: u64, to: u64, len: usize },
    /// In place.
    Broadcast { at: u64, len: usize, root: c_int },
    /// To a rank.
    Send { at: u64, len: usize, peer: c_int },
    /// From a rank.
    Recv { at: u64, len: usize, peer: c_int },
}

/// Where the blocks of a call lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Addresses {
    pub(super) block: u64,
    pub(super) workspace: u64,
    /// Elements of the block.
    pub(super) len: usize,
    pub(super) dtype: DType,
}

/// `ncclDataType_t`.
pub(super) const fn type_code(dtype: DType) -> c_int {
    match dtype {
        DType::U8 => 1,
        DType::I32 => 2,
        DType::U32 => 3,
        DType::F32 => 7,
        DType::Bf16 => 9,
    }
}

/// `ncclRedOp_t`.
const fn op_code(op: ReduceOp) -> c_int {
    match op {
        ReduceOp::Sum => 0,
        ReduceOp::Max => 2,
    }
}

fn to_int(rank: usize) -> c_int {
    c_int::try_from(rank).expect("ranks fit NCCL's int")
}

/// What NCCL is asked for a transfer of rank `rank` of `size`, all of it in one group.
pub(super) fn operations(
    transfer: &Transfer,
    (rank, size): (usize, usize),
    addresses: Addresses,
) -> Vec<Operation> {
    let Addresses { block, workspace, len, dtype } = addresses;
    let bytes = |elements: usize| (elements * dtype.size_bytes()) as u64;
    let slice = len / size;
    let own = block + bytes(rank * slice);
    let place = |message: &Message| {
        let start = match message.place {
            Place::Block => block,
            Place::Workspace => workspace,
        };
        (start + bytes(message.elements.start), message.elements.len(), to_int(message.peer))
    };
    match transfer {
        Transfer::AllReduce(op) => vec![Operation::AllReduce { at: block, len, op: op_code(*op) }],
        Transfer::ReduceScatter(op) => {
            vec![Operation::ReduceScatter { from: block, to: own, len: slice, op: op_code(*op) }]
        }
        Transfer::AllGather => vec![Operation::AllGather { from: own, to: block, len: slice }],
        Transfer::Broadcast { root } => vec![Operation::Broadcast { at: block, len, root: to_int(*root) }],
        Transfer::Exchange { sends, receives } => {
            let sends = sends.iter().map(place).map(|(at, len, peer)| Operation::Send { at, len, peer });
            let receives =
                receives.iter().map(place).map(|(at, len, peer)| Operation::Recv { at, len, peer });
            sends.chain(receives).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Call;
    use crate::nccl::Sums;
    use crate::nccl::plan::phases;

    const PLACE: Addresses = Addresses { block: 4096, workspace: 65_536, len: 24, dtype: DType::F32 };

    fn of(call: Call, sums: Sums) -> Vec<Operation> {
        let phases = phases(sums, call, (1, 3), PLACE.len, PLACE.dtype);
        phases.iter().flat_map(|phase| operations(&phase.transfer, (1, 3), PLACE)).collect()
    }

    #[test]
    fn slices_are_in_place_as_nccl_asks_for() {
        let own = 4096 + 8 * 4;
        assert_eq!(of(Call::AllGather, Sums::Tree), [Operation::AllGather { from: own, to: 4096, len: 8 }]);
        assert_eq!(
            of(Call::ReduceScatter(ReduceOp::Sum), Sums::Library),
            [Operation::ReduceScatter { from: 4096, to: own, len: 8, op: 0 }]
        );
        assert_eq!(
            of(Call::AllReduce(ReduceOp::Sum), Sums::Library),
            [Operation::AllReduce { at: 4096, len: 24, op: 0 }]
        );
        assert_eq!(
            of(Call::Broadcast { root: 2 }, Sums::Tree),
            [Operation::Broadcast { at: 4096, len: 24, root: 2 }]
        );
    }

    #[test]
    fn a_reduction_of_ours_sends_slices_and_receives_into_workspace() {
        let at = |slice: u64| 4096 + slice * 32;
        assert_eq!(
            of(Call::ReduceScatter(ReduceOp::Sum), Sums::Tree),
            [
                Operation::Send { at: at(2), len: 8, peer: 2 },
                Operation::Send { at: at(0), len: 8, peer: 0 },
                Operation::Recv { at: 65_536, len: 8, peer: 0 },
                Operation::Recv { at: 65_536 + 32, len: 8, peer: 2 },
            ]
        );
    }

    #[test]
    fn an_exchange_goes_from_the_first_half_to_the_second() {
        let half = 12 * 4;
        assert_eq!(
            of(Call::AllToAll, Sums::Tree),
            [
                Operation::Send { at: 4096 + 32, len: 4, peer: 2 },
                Operation::Send { at: 4096, len: 4, peer: 0 },
                Operation::Recv { at: 4096 + half, len: 4, peer: 0 },
                Operation::Recv { at: 4096 + half + 32, len: 4, peer: 2 },
            ]
        );
    }
}
