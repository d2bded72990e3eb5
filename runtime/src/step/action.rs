//! What a training step is made of.

/// One thing a rank does in a step. Prefetch, hang reports, traces and the planner read lists of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Make a unit's compute copy whole on this rank.
    Gather {
        /// The unit.
        unit: usize,
    },
    /// Copy a micro-batch to the device.
    Load {
        /// Which micro-batch of the step.
        micro_batch: usize,
    },
    /// Forward pass of the embedding or a block.
    Forward {
        /// The unit.
        unit: usize,
        /// Which micro-batch of the step.
        micro_batch: usize,
    },
    /// Forward and backward pass of the head: the loss ends one and begins the other.
    Loss {
        /// Which micro-batch of the step.
        micro_batch: usize,
    },
    /// Backward pass of a block or the embedding.
    Backward {
        /// The unit.
        unit: usize,
        /// Which micro-batch of the step.
        micro_batch: usize,
    },
    /// Sum a unit's gradients over the data-parallel ranks.
    Reduce {
        /// The unit.
        unit: usize,
    },
    /// Norm of all gradients, clip factor, and whether the update takes place: on the device.
    Norm,
    /// Optimizer step of a unit: master weights, moments, compute copy.
    Update {
        /// The unit.
        unit: usize,
    },
}
