//! What the trainer sees of a device: an object-safe face of [`Executor`], so that trainer, data,
//! checkpoints and reports are not generic.

use tisserand_kernels::arena::Usage;
use tisserand_kernels::ops::elementwise;
use tisserand_kernels::ops::step_scalars::StepScalars;
use tisserand_kernels::{Block, Class, DType, Device};

use crate::data::MicroBatch;
use crate::error::{Error, Result};
use crate::model::Transformer;
use crate::network::read_f32;
use crate::step::Executor;
use crate::step::state::{Location, STAGED_ELEMENTS, locations};

/// A tensor that exists for every parameter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// Compute copy.
    Weights,
    /// Master weights.
    Master,
    /// First moment.
    ExpAvg,
    /// Second moment.
    ExpAvgSq,
    /// Gradient of the last step.
    Gradient,
}

/// Arena bytes of one device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Memory {
    /// Bytes in use by class when most were.
    pub peak: Usage,
    /// Highest end address so far.
    pub high_water_bytes: usize,
    /// Size of the arena.
    pub capacity_bytes: usize,
}

/// A model in training on some device.
pub trait Engine: Send {
    /// Layers and layout.
    fn model(&self) -> &Transformer;

    /// Sets all weights to their start values.
    fn initialize(&mut self, seed: u64) -> Result<()>;

    /// One training step. Of `inputs` only the words that the host decides are read.
    fn train(&mut self, inputs: &StepScalars, micro_batches: &[MicroBatch]) -> Result<()>;

    /// The device's step scalars; waits for the device.
    fn scalars(&self) -> Result<StepScalars>;

    /// Sets all step scalars.
    fn set_scalars(&mut self, scalars: &StepScalars) -> Result<()>;

    /// Sums of cross-entropy and z-loss over one micro-batch.
    fn losses(&mut self, micro_batch: &MicroBatch) -> Result<[f32; 2]>;

    /// Logits of every token of one micro-batch [tokens, vocab_size].
    fn logits(&mut self, micro_batch: &MicroBatch) -> Result<Vec<f32>>;

    /// A part of a parameter, widened to f32.
    fn read(&self, name: &str, part: Part) -> Result<Vec<f32>>;

    /// Appends a part of a parameter to `bytes`, in its element type.
    fn read_bytes(&self, name: &str, part: Part, bytes: &mut Vec<u8>) -> Result<()>;

    /// Element type of a part.
    fn dtype(&self, part: Part) -> DType;

    /// Sets a part of a parameter. The master weights carry the compute copy along.
    fn write(&mut self, name: &str, part: Part, values: &[f32]) -> Result<()>;

    /// Arena bytes so far.
    fn memory(&self) -> Memory;
}

impl<D: Device> Executor<D> {
    fn locate(&self, name: &str) -> Result<Location<'_>> {
        locations(&self.network.model)
            .find(|location| location.param.name == name)
            .ok_or_else(|| Error::input(format!("the model has no parameter {name:?}")))
    }

    fn block(&self, part: Part, location: Location<'_>) -> &Block<D> {
        let Location { unit, group, .. } = location;
        match part {
            Part::Weights => self.network.weights.group(unit, group),
            Part::Master => &self.state.master[unit][group],
            Part::ExpAvg => &self.state.exp_avg[unit][group],
            Part::ExpAvgSq => &self.state.exp_avg_sq[unit][group],
            Part::Gradient => self.gradients.group(unit, group),
        }
    }
}

impl<D: Device> Engine for Executor<D> {
    fn model(&self) -> &Transformer {
        &self.network.model
    }

    fn initialize(&mut self, seed: u64) -> Result<()> {
        Ok(self.state.initialize(&mut self.network, seed)?)
    }

    fn train(&mut self, inputs: &StepScalars, micro_batches: &[MicroBatch]) -> Result<()> {
        let device = self.network.ctx.device.clone();
        device.enter(|| Executor::train(self, inputs, micro_batches))
    }

    fn scalars(&self) -> Result<StepScalars> {
        Executor::scalars(self)
    }

    fn set_scalars(&mut self, scalars: &StepScalars) -> Result<()> {
        Executor::set_scalars(self, scalars)
    }

    fn losses(&mut self, micro_batch: &MicroBatch) -> Result<[f32; 2]> {
        let device = self.network.ctx.device.clone();
        let params = self.config().cross_entropy;
        Ok(device.enter(|| self.network.losses(&params, micro_batch))?)
    }

    fn logits(&mut self, micro_batch: &MicroBatch) -> Result<Vec<f32>> {
        Ok(self.network.logits(micro_batch)?)
    }

    fn read(&self, name: &str, part: Part) -> Result<Vec<f32>> {
        let location = self.locate(name)?;
        let param = location.param;
        Ok(read_f32(&self.network.ctx, self.block(part, location), param.offset, param.len())?)
    }

    fn read_bytes(&self, name: &str, part: Part, bytes: &mut Vec<u8>) -> Result<()> {
        let location = self.locate(name)?;
        let (at, len) = (location.param.offset, location.param.len());
        let block = self.block(part, location);
        let device = &self.network.ctx.device;
        let start = bytes.len();
        bytes.resize(start + len * block.dtype().size_bytes(), 0);
        tisserand_kernels::match_float!(block.dtype(), T => {
            let mut values = vec![<T as tisserand_kernels::Float>::from_f32(0.0); len];
            device.download(block.range(at, [len]), &mut values)?;
            bytes[start..].copy_from_slice(bytemuck::cast_slice(&values));
        });
        Ok(())
    }

    fn dtype(&self, part: Part) -> DType {
        let dtypes = self.config().dtypes;
        match part {
            Part::Weights => dtypes.compute,
            Part::Master => dtypes.master,
            Part::ExpAvg | Part::ExpAvgSq => dtypes.moments,
            Part::Gradient => DType::F32,
        }
    }

    fn write(&mut self, name: &str, part: Part, values: &[f32]) -> Result<()> {
        let model = self.network.model.clone();
        let location = locations(&model)
            .find(|location| location.param.name == name)
            .ok_or_else(|| Error::input(format!("the model has no parameter {name:?}")))?;
        let len = location.param.len();
        if values.len() != len {
            let got = values.len();
            return Err(Error::input(format!("{name} has {len} elements, but {got} are given")));
        }
        let ctx = self.network.ctx.clone();
        let Location { unit, group, param } = location;
        for (i, values) in values.chunks(STAGED_ELEMENTS).enumerate() {
            let (start, extents) = (i * STAGED_ELEMENTS, [values.len()]);
            let mut staged = ctx.arena.block(Class::Workspace, DType::F32, values.len())?;
            ctx.device.upload(values, staged.view_mut(extents))?;
            let staged = staged.view(extents);
            let block = match part {
                Part::Master => {
                    self.state.set_master(&mut self.network, location, start, staged)?;
                    continue;
                }
                Part::Weights => self.network.weights.group_mut(unit, group),
                Part::ExpAvg => &mut self.state.exp_avg[unit][group],
                Part::ExpAvgSq => &mut self.state.exp_avg_sq[unit][group],
                Part::Gradient => &mut self.gradients.unit_groups_mut(unit)[group],
            };
            elementwise::cast(&ctx, staged, block.range_mut(param.offset + start, extents))?;
        }
        Ok(())
    }

    fn memory(&self) -> Memory {
        let arena = &self.network.ctx.arena;
        Memory {
            peak: arena.peak(),
            high_water_bytes: arena.high_water_bytes(),
            capacity_bytes: arena.capacity_bytes(),
        }
    }
}
