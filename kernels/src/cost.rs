//! What an op costs by its definition: the numbers that planner, benchmarks and logs share.

/// FLOPs and bytes of one call of an op, counted from its formula (a multiply-add is two FLOPs;
/// each input is read once and each output written once).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cost {
    /// Name of the op.
    pub op: &'static str,
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes that must be read and written at least.
    pub bytes: u64,
}
