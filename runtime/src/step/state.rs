//! What a rank keeps for the optimizer between steps: master weights and moments.

use tisserand_kernels::ops::elementwise;
use tisserand_kernels::ops::philox::{self, NormalParams};
use tisserand_kernels::{Block, Class, DType, Device, Result, TensorRef};

use crate::model::Transformer;
use crate::network::{Network, flat_groups};
use crate::params::{ParamInit, ParamSpec};

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

/// Master weights and moments of all parameters on this rank, in flat groups as the weights are.
pub struct OptimizerState<D: Device> {
    /// Master weights.
    pub master: Vec<[Block<D>; 2]>,
    /// First moments.
    pub exp_avg: Vec<[Block<D>; 2]>,
    /// Second moments.
    pub exp_avg_sq: Vec<[Block<D>; 2]>,
}

/// Where a parameter lies.
#[derive(Clone, Copy, Debug)]
pub struct Location<'a> {
    /// Its unit.
    pub unit: usize,
    /// Its group in the unit.
    pub group: usize,
    /// The parameter.
    pub param: &'a ParamSpec,
}

/// Where each parameter of a model lies, in the order of the layout.
pub fn locations(model: &Transformer) -> impl Iterator<Item = Location<'_>> {
    model.units.iter().enumerate().flat_map(|(unit, layout)| {
        layout.groups.iter().enumerate().flat_map(move |(group, layout)| {
            layout.params.iter().map(move |param| Location { unit, group, param })
        })
    })
}

impl<D: Device> OptimizerState<D> {
    /// Takes all blocks, zeroed; padding stays zero.
    pub fn new(network: &Network<D>, dtypes: StateDTypes) -> Result<Self> {
        let groups = |class, dtype| flat_groups(&network.ctx, &network.model, class, dtype);
        Ok(OptimizerState {
            master: groups(Class::Master, dtypes.master)?,
            exp_avg: groups(Class::Moments, dtypes.moments)?,
            exp_avg_sq: groups(Class::Moments, dtypes.moments)?,
        })
    }

    /// Sets master weights and compute copies to their start values: functions of (seed, name, global
    /// element index), the same on every mesh.
    pub fn initialize(&mut self, network: &mut Network<D>, seed: u64) -> Result<()> {
        let (ctx, model) = (network.ctx.clone(), network.model.clone());
        for location in locations(&model) {
            let param = location.param;
            for start in (0..param.len()).step_by(STAGED_ELEMENTS) {
                let len = STAGED_ELEMENTS.min(param.len() - start);
                let mut values = ctx.arena.block(Class::Workspace, DType::F32, len)?;
                match param.init {
                    ParamInit::Constant(value) => elementwise::fill(&ctx, value, values.view_mut([len]))?,
                    ParamInit::Normal { std } => {
                        let (tensor_key, std) = (param.tensor_key, std as f32);
                        let first_index = start as u64;
                        let params = NormalParams { seed, tensor_key, first_index, mean: 0.0, std };
                        philox::normal(&ctx, &params, values.view_mut([len]))?;
                    }
                }
                self.set_master(network, location, start, values.view([len]))?;
            }
        }
        Ok(())
    }

    /// Sets elements of a parameter's master weights from `start` on (rounded to their type), and its
    /// compute copy from them.
    pub fn set_master(
        &mut self,
        network: &mut Network<D>,
        location: Location<'_>,
        start: usize,
        values: TensorRef<'_, D>,
    ) -> Result<()> {
        let Location { unit, group, param } = location;
        let (at, extents) = (param.offset + start, [values.len()]);
        let master = &mut self.master[unit][group];
        elementwise::cast(&network.ctx, values, master.range_mut(at, extents))?;
        let weights = network.weights.group_mut(unit, group).range_mut(at, extents);
        elementwise::cast(&network.ctx, master.range(at, extents), weights)
    }
}
