//! The control plane: small host-side agreements between all ranks, apart from the devices' traffic.

/// Agreements that the trainer needs at step boundaries. With one rank its own word is the agreement.
pub trait ControlPlane: Send {
    /// This process's rank.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn world_size(&self) -> usize;

    /// The sum of every rank's `value`: valid tokens of a step, bytes of a checkpoint.
    fn sum(&mut self, value: u64) -> u64;

    /// The largest of every rank's `value`: the most urgent reason to stop, the longest step.
    fn max(&mut self, value: u64) -> u64;
}

/// The control plane of one rank.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl ControlPlane for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn world_size(&self) -> usize {
        1
    }

    fn sum(&mut self, value: u64) -> u64 {
        value
    }

    fn max(&mut self, value: u64) -> u64 {
        value
    }
}
