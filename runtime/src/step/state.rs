//! What a rank keeps for the optimizer between steps: master weights and moments of its slices.

use tisserand_kernels::ops::elementwise;
use tisserand_kernels::ops::philox::{self, NormalParams};
use tisserand_kernels::{Block, Class, DType, Device, TensorRef};

use crate::error::Result;
use crate::model::Transformer;
use crate::network::Network;
use crate::parallel::Sharding;
use crate::parallel::weights::zeroed;
use crate::params::{GroupLayout, ParamInit, ParamSpec, PerGroup, Run, per_group};

/// Elements that are staged in the arena at once when weights are set: bounds the workspace of a start.
pub(crate) const STAGED_ELEMENTS: usize = 1 << 20;

/// Element types of the state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StateDTypes {
    /// Compute copy of the weights, and activations.
    pub compute: DType,
    /// Master weights.
    pub master: DType,
    /// Moments of the optimizer.
    pub moments: DType,
}

/// Master weights and moments of this rank's slices, in flat groups as the weights are.
pub struct OptimizerState<D: Device> {
    /// Master weights.
    pub master: Vec<PerGroup<Block<D>>>,
    /// First moments.
    pub exp_avg: Vec<PerGroup<Block<D>>>,
    /// Second moments.
    pub exp_avg_sq: Vec<PerGroup<Block<D>>>,
}

/// Consecutive elements of a parameter that lie in this rank's slice.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// The parameter's unit.
    pub unit: usize,
    /// Its group in the unit.
    pub group: usize,
    /// The parameter.
    pub param: &'a ParamSpec,
    /// First element of what is here of the parameter.
    pub start: usize,
    /// First element of the slice.
    pub at: usize,
    /// Number of elements.
    pub len: usize,
}

impl Piece<'_> {
    /// Elements `start .. start + len` of this piece.
    pub fn part(self, start: usize, len: usize) -> Self {
        Piece { start: self.start + start, at: self.at + start, len, ..self }
    }

    /// The piece up to the padding of its parameter; `None` if it is nothing else.
    fn without_padding(self) -> Option<Self> {
        let len = self.len.min(self.param.valid_len().saturating_sub(self.start));
        (len > 0).then_some(Piece { len, ..self })
    }

    /// Its elements as runs of the global tensor; `local` counts from the start of the piece.
    pub fn runs(&self) -> impl Iterator<Item = Run> + use<> {
        let start = self.start;
        let runs = self.param.runs(start..start + self.len);
        runs.map(move |run| Run { local: run.local - start, ..run })
    }
}

/// What a rank holds of each parameter, in the order of the layout.
pub fn pieces<'a>(model: &'a Transformer, sharding: Sharding) -> impl Iterator<Item = Piece<'a>> {
    model.units.iter().enumerate().flat_map(move |(unit, layout)| {
        layout.groups.iter().enumerate().flat_map(move |(group, layout)| {
            let slice = sharding.slice(layout);
            layout.params.iter().filter_map(move |param| {
                let first = slice.start.max(param.offset);
                let end = slice.end.min(param.offset + param.len());
                let (start, at) = (first.saturating_sub(param.offset), first - slice.start);
                (first < end).then(|| Piece { unit, group, param, start, at, len: end - first })
            })
        })
    })
}

impl<D: Device> OptimizerState<D> {
    /// Takes all blocks, zeroed; padding stays zero.
    pub fn new(network: &Network<D>, sharding: Sharding, dtypes: StateDTypes) -> Result<Self> {
        let groups = |class, dtype| -> Result<Vec<PerGroup<Block<D>>>> {
            let group = |layout: &GroupLayout| -> Result<Block<D>> {
                Ok(zeroed(&network.ctx, class, dtype, sharding.slice(layout).len())?)
            };
            network.model.units.iter().map(|unit| per_group(unit, group)).collect()
        };
        Ok(OptimizerState {
            master: groups(Class::Master, dtypes.master)?,
            exp_avg: groups(Class::Moments, dtypes.moments)?,
            exp_avg_sq: groups(Class::Moments, dtypes.moments)?,
        })
    }

    /// Sets master weights and compute copies of this rank's slices to their start values: functions of (seed,
    /// name, global element index), the same on every mesh.
    pub fn initialize(&mut self, network: &mut Network<D>, sharding: Sharding, seed: u64) -> Result<()> {
        let (ctx, model) = (network.ctx.clone(), network.model.clone());
        for piece in pieces(&model, sharding).filter_map(Piece::without_padding) {
            for start in (0..piece.len).step_by(STAGED_ELEMENTS) {
                let part = piece.part(start, STAGED_ELEMENTS.min(piece.len - start));
                let (param, len) = (part.param, part.len);
                let mut values = ctx.arena.block(Class::Workspace, DType::F32, len)?;
                match param.init {
                    ParamInit::Constant(value) => elementwise::fill(&ctx, value, values.view_mut([len]))?,
                    ParamInit::Normal { std } => {
                        let (tensor_key, std) = (param.tensor_key, std as f32);
                        let index = param.index(part.start);
                        let params = NormalParams { seed, tensor_key, index, mean: 0.0, std };
                        philox::normal(&ctx, &params, values.view_mut([len]))?;
                    }
                }
                self.set_master(network, part, values.view([len]))?;
            }
        }
        Ok(())
    }

    /// Sets master weights (rounded to their type), and the compute copy from them.
    pub fn set_master(
        &mut self,
        network: &mut Network<D>,
        piece: Piece<'_>,
        values: TensorRef<'_, D>,
    ) -> Result<()> {
        let Piece { unit, group, at, len, .. } = piece;
        let master = &mut self.master[unit][group];
        elementwise::cast(&network.ctx, values, master.range_mut(at, [len]))?;
        let weights = network.weights.slice_mut(unit, group, at, len);
        Ok(elementwise::cast(&network.ctx, master.range(at, [len]), weights)?)
    }
}
