//! Who adds up, and the workspace that this takes.

use tisserand_kernels::DType;

use crate::{Call, ReduceOp, mpi};

/// Who adds up floating-point numbers of several ranks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sums {
    /// Our kernel, as a tree over the ranks: bits that depend on nothing else.
    Tree,
    /// NCCL, where it adds in f32: f32. Other types as with `Tree`.
    Library,
}

impl Sums {
    /// Whether NCCL does a call alone: exactly as our own code would, or in its own order where it may.
    pub(super) fn are_native(self, call: Call, dtype: DType) -> bool {
        match call {
            Call::AllReduce(op) | Call::ReduceScatter(op) => match dtype {
                DType::U32 | DType::I32 | DType::U8 => true,
                DType::F32 => self == Sums::Library && op == ReduceOp::Sum,
                DType::Bf16 => false,
            },
            Call::AllGather | Call::Broadcast { .. } => true,
            Call::AllToAll | Call::Send { .. } | Call::Recv { .. } => false,
        }
    }
}

/// Elements of the block of [`Class::Communication`](tisserand_kernels::Class::Communication) that `start` takes, of
/// the dtype of the call's block, and `wait` gives back: slices of other ranks that we combine.
pub fn workspace_elements(sums: Sums, call: Call, size: usize, len: usize, dtype: DType) -> usize {
    if sums.are_native(call, dtype) { 0 } else { mpi::workspace_elements(call, size, len) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nccl_does_exactly_or_may_do_its_way_is_left_to_it() {
        let is_native = |sums: Sums, op, dtype| sums.are_native(Call::ReduceScatter(op), dtype);
        for sums in [Sums::Tree, Sums::Library] {
            assert!([DType::U32, DType::I32, DType::U8].into_iter().all(|dtype| is_native(
                sums,
                ReduceOp::Sum,
                dtype
            )));
            assert!(!is_native(sums, ReduceOp::Sum, DType::Bf16), "it rounds at every hop");
            assert!(!is_native(sums, ReduceOp::Max, DType::F32), "it loses NaN");
        }
        assert!(
            is_native(Sums::Library, ReduceOp::Sum, DType::F32)
                && !is_native(Sums::Tree, ReduceOp::Sum, DType::F32)
        );
    }
}
