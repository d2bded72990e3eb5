//! How a call is carried out: what NCCL does, and what we do with what it has brought. Pure.

use tisserand_kernels::DType;

use super::sums::Sums;
use crate::messages::{self, After, Message};
use crate::{Call, ReduceOp};

/// What moves in one phase of a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Transfer {
    /// The whole block becomes the reduction.
    AllReduce(ReduceOp),
    /// Slice `rank` becomes the reduction.
    ReduceScatter(ReduceOp),
    /// Slices of all ranks.
    AllGather,
    /// The whole block.
    Broadcast { root: usize },
    /// Messages in both directions, all at once.
    Exchange { sends: Vec<Message>, receives: Vec<Message> },
}

/// A transfer, and what follows it on this rank.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Phase {
    pub(super) transfer: Transfer,
    pub(super) after: After,
}

/// What NCCL does alone.
fn native(sums: Sums, call: Call, dtype: DType) -> Option<Transfer> {
    match call {
        _ if !sums.are_native(call, dtype) => None,
        Call::AllReduce(op) => Some(Transfer::AllReduce(op)),
        Call::ReduceScatter(op) => Some(Transfer::ReduceScatter(op)),
        Call::AllGather => Some(Transfer::AllGather),
        Call::Broadcast { root } => Some(Transfer::Broadcast { root }),
        Call::AllToAll | Call::Send { .. } | Call::Recv { .. } => None,
    }
}

/// The phases of a call that [`Call::check`] admits, among at least two ranks.
pub(super) fn phases(
    sums: Sums,
    call: Call,
    (rank, size): (usize, usize),
    len: usize,
    dtype: DType,
) -> Vec<Phase> {
    if len == 0 {
        return Vec::new();
    }
    if let Some(transfer) = native(sums, call, dtype) {
        return vec![Phase { transfer, after: After::Nothing }];
    }
    let phases = messages::phases(call, rank, size, len).into_iter();
    phases
        .map(|messages::Phase { sends, receives, after }| Phase {
            transfer: Transfer::Exchange { sends, receives },
            after,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nccl::workspace_elements;

    const SUM: ReduceOp = ReduceOp::Sum;

    #[test]
    fn workspace_holds_what_is_received_beside_the_block() {
        for (sums, dtype, expected) in
            [(Sums::Tree, DType::F32, 300), (Sums::Library, DType::F32, 0), (Sums::Library, DType::Bf16, 300)]
        {
            let call = Call::ReduceScatter(SUM);
            assert_eq!(workspace_elements(sums, call, 4, 400, dtype), expected);
            let received: usize = phases(sums, call, (2, 4), 400, dtype)
                .iter()
                .map(|phase| match &phase.transfer {
                    Transfer::Exchange { receives, .. } => receives.iter().map(|m| m.elements.len()).sum(),
                    _ => 0,
                })
                .sum();
            assert_eq!(received, expected);
        }
    }

    #[test]
    fn nothing_moves_for_an_empty_block() {
        assert!(phases(Sums::Tree, Call::AllGather, (0, 4), 0, DType::F32).is_empty());
    }
}
