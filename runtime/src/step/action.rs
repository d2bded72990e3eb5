//! What a training step is made of.

use tisserand_collectives::Axis;

/// One thing a rank does in a step. Prefetch, hang reports, traces and the planner read lists of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Begin to make a unit's compute copy whole on this rank; its first use waits.
    Gather {
        /// The unit.
        unit: usize,
    },
    /// Free a unit's gathered compute copy.
    Release {
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
    /// Add a unit's gradients of one micro-batch to those of the step.
    Fold {
        /// The unit.
        unit: usize,
        /// Which micro-batch of the step.
        micro_batch: usize,
    },
    /// Begin to sum a unit's gradients along an axis; along `tp`, sum what several of its ranks have.
    Reduce {
        /// The unit.
        unit: usize,
        /// The axis.
        axis: Axis,
    },
    /// Wait for that sum and take it up.
    Collect {
        /// The unit.
        unit: usize,
        /// The axis.
        axis: Axis,
        /// Whose gradients they are, where each micro-batch's are reduced.
        micro_batch: usize,
    },
    /// Norm of all gradients, clip factor, and whether the update takes place: on the device.
    Norm,
    /// Optimizer step of a unit: master weights, moments, compute copy.
    Update {
        /// The unit.
        unit: usize,
    },
}

impl Action {
    /// Every name, in the order of [`Action::index`].
    pub const NAMES: [&'static str; 11] = [
        "gather", "release", "load", "forward", "loss", "backward", "fold", "reduce", "collect", "norm",
        "update",
    ];

    /// Which of [`Action::NAMES`] is this action's.
    pub fn index(&self) -> usize {
        match self {
            Action::Gather { .. } => 0,
            Action::Release { .. } => 1,
            Action::Load { .. } => 2,
            Action::Forward { .. } => 3,
            Action::Loss { .. } => 4,
            Action::Backward { .. } => 5,
            Action::Fold { .. } => 6,
            Action::Reduce { .. } => 7,
            Action::Collect { .. } => 8,
            Action::Norm => 9,
            Action::Update { .. } => 10,
        }
    }

    /// The name in tables, traces and plans.
    pub fn name(&self) -> &'static str {
        Self::NAMES[self.index()]
    }

    /// The micro-batch it works on.
    pub fn micro_batch(&self) -> Option<usize> {
        match *self {
            Action::Load { micro_batch }
            | Action::Forward { micro_batch, .. }
            | Action::Loss { micro_batch }
            | Action::Backward { micro_batch, .. }
            | Action::Fold { micro_batch, .. }
            | Action::Collect { micro_batch, .. } => Some(micro_batch),
            Action::Gather { .. }
            | Action::Release { .. }
            | Action::Reduce { .. }
            | Action::Norm
            | Action::Update { .. } => None,
        }
    }

    /// The unit it works on.
    pub fn unit(&self) -> Option<usize> {
        match *self {
            Action::Gather { unit }
            | Action::Release { unit }
            | Action::Forward { unit, .. }
            | Action::Backward { unit, .. }
            | Action::Fold { unit, .. }
            | Action::Reduce { unit, .. }
            | Action::Collect { unit, .. }
            | Action::Update { unit } => Some(unit),
            Action::Load { .. } | Action::Loss { .. } | Action::Norm => None,
        }
    }
}
