//! What the trainer sees of a device: an object-safe face of [`Executor`], so that trainer, data,
//! checkpoints and reports are not generic.

use tisserand_collectives::{Audit, Axis};
use tisserand_kernels::arena::Usage;
use tisserand_kernels::ops::elementwise;
use tisserand_kernels::ops::step_scalars::StepScalars;
use tisserand_kernels::{Class, DType, Device, Float, TensorRef, match_float};

use crate::data::MicroBatch;
use crate::error::{Error, Result};
use crate::model::Transformer;
use crate::parallel::Sharding;
pub use crate::snapshot::SavedRun;
use crate::step::Executor;
use crate::step::state::{Piece, STAGED_ELEMENTS, pieces};

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

    /// This rank's part of the mesh.
    fn sharding(&self) -> Sharding;

    /// Sets all weights to their start values; [`Engine::publish`] follows.
    fn initialize(&mut self, seed: u64) -> Result<()>;

    /// One training step. Of `inputs` only the words that the host decides are read.
    fn train(&mut self, inputs: &StepScalars, micro_batches: &[MicroBatch]) -> Result<()>;

    /// The device's step scalars; waits for the device.
    fn scalars(&self) -> Result<StepScalars>;

    /// Sets all step scalars.
    fn set_scalars(&mut self, scalars: &StepScalars) -> Result<()>;

    /// Sums of cross-entropy and z-loss over one micro-batch. All ranks call it, each with its own.
    fn losses(&mut self, micro_batch: &MicroBatch) -> Result<[f32; 2]>;

    /// Logits of every token of one micro-batch [tokens, vocab_size]. All ranks call it.
    fn logits(&mut self, micro_batch: &MicroBatch) -> Result<Vec<f32>>;

    /// Ends what is under way between ranks, so that weights may be read.
    fn settle(&mut self) -> Result<()>;

    /// After pieces were written: brings what every rank must have whole to all of them.
    fn publish(&mut self) -> Result<()>;

    /// What this rank writes of a part into a checkpoint. All ranks call it, between steps.
    fn snapshot(&mut self, part: Part) -> Result<Vec<SavedRun>>;

    /// Appends a part of a piece to `bytes`, in its element type.
    fn read_piece(&self, piece: &Piece<'_>, part: Part, bytes: &mut Vec<u8>) -> Result<()>;

    /// Element type of a part.
    fn dtype(&self, part: Part) -> DType;

    /// Sets a part of a piece. The master weights carry the compute copy along.
    fn write_piece(&mut self, piece: &Piece<'_>, part: Part, values: &[f32]) -> Result<()>;

    /// Arena bytes so far.
    fn memory(&self) -> Memory;

    /// Calls and bytes so far along an axis.
    fn audit(&self, axis: Axis) -> Audit;

    /// What this rank holds of a parameter, in order, widened to f32: all of it unless it is sharded, padding
    /// included.
    fn read(&self, name: &str, part: Part) -> Result<Vec<f32>> {
        let mut bytes = Vec::new();
        for piece in pieces(self.model(), self.sharding()).filter(|piece| piece.param.name == name) {
            self.read_piece(&piece, part, &mut bytes)?;
        }
        match_float!(self.dtype(part), T => {
            let words = bytes.chunks_exact(size_of::<T>());
            Ok(words.map(|word| bytemuck::pod_read_unaligned::<T>(word).to_f32()).collect())
        })
    }

    /// Sets what this rank holds of a parameter, given all of its elements.
    fn write(&mut self, name: &str, part: Part, values: &[f32]) -> Result<()> {
        let (model, sharding) = (self.model().clone(), self.sharding());
        let param = model.units.iter().flat_map(|unit| unit.params()).find(|param| param.name == name);
        let param = param.ok_or_else(|| Error::input(format!("the model has no parameter {name:?}")))?;
        let len = param.global_len();
        if values.len() != len {
            let got = values.len();
            return Err(Error::input(format!("{name} has {len} elements, but {got} are given")));
        }
        for piece in pieces(&model, sharding).filter(|piece| piece.param.name == name) {
            let mut mine = vec![0.0; piece.len];
            for run in piece.runs() {
                mine[run.local..][..run.len].copy_from_slice(&values[run.global..][..run.len]);
            }
            self.write_piece(&piece, part, &mine)?;
        }
        Ok(())
    }
}

impl<D: Device> Executor<D> {
    pub(crate) fn part(&self, piece: &Piece<'_>, part: Part) -> TensorRef<'_, D> {
        let Piece { unit, group, at, len, .. } = *piece;
        match part {
            Part::Weights => self.network.weights.slice(unit, group, at, len),
            Part::Master => self.state.master[unit][group].range(at, [len]),
            Part::ExpAvg => self.state.exp_avg[unit][group].range(at, [len]),
            Part::ExpAvgSq => self.state.exp_avg_sq[unit][group].range(at, [len]),
            Part::Gradient => self.gradients.slice(unit, group, at, len),
        }
    }

    fn write_staged(&mut self, piece: Piece<'_>, part: Part, values: TensorRef<'_, D>) -> Result<()> {
        let Piece { unit, group, at, len, .. } = piece;
        let ctx = self.network.ctx.clone();
        let out = match part {
            Part::Master => return self.state.set_master(&mut self.network, piece, values),
            Part::Weights => self.network.weights.slice_mut(unit, group, at, len),
            Part::ExpAvg => self.state.exp_avg[unit][group].range_mut(at, [len]),
            Part::ExpAvgSq => self.state.exp_avg_sq[unit][group].range_mut(at, [len]),
            Part::Gradient => return Err(Error::fault("gradients are results: nobody sets them")),
        };
        Ok(elementwise::cast(&ctx, values, out)?)
    }
}

impl<D: Device> Engine for Executor<D> {
    fn model(&self) -> &Transformer {
        &self.network.model
    }

    fn sharding(&self) -> Sharding {
        self.config().sharding
    }

    fn initialize(&mut self, seed: u64) -> Result<()> {
        let sharding = self.sharding();
        self.state.initialize(&mut self.network, sharding, seed)
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
        device.enter(|| self.network.losses(&params, micro_batch))
    }

    fn logits(&mut self, micro_batch: &MicroBatch) -> Result<Vec<f32>> {
        self.network.logits(micro_batch)
    }

    fn settle(&mut self) -> Result<()> {
        self.network.weights.settle()
    }

    fn publish(&mut self) -> Result<()> {
        self.network.weights.publish(&self.network.ctx)
    }

    fn snapshot(&mut self, part: Part) -> Result<Vec<SavedRun>> {
        self.settle()?;
        self.take_snapshot(part)
    }

    fn read_piece(&self, piece: &Piece<'_>, part: Part, bytes: &mut Vec<u8>) -> Result<()> {
        let tensor = self.part(piece, part);
        let start = bytes.len();
        bytes.resize(start + tensor.size_bytes(), 0);
        match_float!(tensor.dtype(), T => {
            let mut values = vec![<T as Float>::from_f32(0.0); piece.len];
            self.network.ctx.device.download(tensor, &mut values)?;
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

    fn write_piece(&mut self, piece: &Piece<'_>, part: Part, values: &[f32]) -> Result<()> {
        let ctx = self.network.ctx.clone();
        for (i, values) in values.chunks(STAGED_ELEMENTS).enumerate() {
            let mut staged = ctx.arena.block(Class::Workspace, DType::F32, values.len())?;
            ctx.device.upload(values, staged.view_mut([values.len()]))?;
            let piece = piece.part(i * STAGED_ELEMENTS, values.len());
            self.write_staged(piece, part, staged.view([values.len()]))?;
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

    fn audit(&self, axis: Axis) -> Audit {
        Executor::audit(self, axis)
    }
}
