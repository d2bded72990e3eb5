//! Cases, and the random numbers that they work on.

use half::bf16;
use tisserand_kernels::ops::elementwise;
use tisserand_kernels::ops::philox::{self, GlobalIndex, NormalParams};
use tisserand_kernels::{Block, Class, Context, Cost, DType, Device, Element, Result};

/// One call of an op on tensors that it owns.
pub(crate) type Run<D> = Box<dyn FnMut(&Context<D>) -> Result<()>>;

/// Makes the tensors of one call, and the call.
type Make<D> = Box<dyn Fn(&mut Inputs<'_, D>) -> Result<Run<D>>>;

/// An op at one shape.
pub(crate) struct Case<D: Device> {
    /// By which it is found in a peer's results.
    pub(crate) name: String,
    /// What it costs, where no front door says so.
    pub(crate) cost: Option<Cost>,
    /// Several sets of tensors are made, so that no call finds its own in a cache.
    pub(crate) make: Make<D>,
}

/// Where cases are gathered.
pub(crate) struct Cases<D: Device>(pub(crate) Vec<Case<D>>);

impl<D: Device> Cases<D> {
    /// Adds a case whose front door says what it costs.
    pub(crate) fn add(
        &mut self,
        name: impl Into<String>,
        make: impl Fn(&mut Inputs<'_, D>) -> Result<Run<D>> + 'static,
    ) {
        self.0.push(Case { name: name.into(), cost: None, make: Box::new(make) });
    }

    /// Adds a case of this cost.
    pub(crate) fn add_costing(
        &mut self,
        name: impl Into<String>,
        cost: Cost,
        make: impl Fn(&mut Inputs<'_, D>) -> Result<Run<D>> + 'static,
    ) {
        self.0.push(Case { name: name.into(), cost: Some(cost), make: Box::new(make) });
    }
}

/// Makes blocks and counts them, so that no two tensors have the same numbers.
pub(crate) struct Inputs<'a, D: Device> {
    ctx: &'a Context<D>,
    made: u64,
}

/// Elements that are made at a time: the room that they need besides the tensor.
const PIECE: usize = 1 << 24;

impl<'a, D: Device> Inputs<'a, D> {
    /// None yet.
    pub(crate) fn new(ctx: &'a Context<D>) -> Self {
        Inputs { ctx, made: 0 }
    }

    /// What they live on.
    pub(crate) fn context(&self) -> &Context<D> {
        self.ctx
    }

    /// Numbers from a standard normal distribution.
    pub(crate) fn normal(&mut self, dtype: DType, len: usize) -> Result<Block<D>> {
        self.made += 1;
        let mut block = self.room(dtype, len)?;
        let params = |start: usize| NormalParams {
            seed: 1,
            tensor_key: self.made,
            index: GlobalIndex::contiguous(start as u64),
            std: 1.0,
            mean: 0.0,
        };
        if dtype == DType::F32 {
            philox::normal(self.ctx, &params(0), block.view_mut([len]))?;
            return Ok(block);
        }
        let mut piece = self.room(DType::F32, len.min(PIECE))?;
        for start in (0..len).step_by(PIECE) {
            let part = [(len - start).min(PIECE)];
            philox::normal(self.ctx, &params(start), piece.view_mut(part))?;
            elementwise::cast(self.ctx, piece.view(part), block.range_mut(start, part))?;
        }
        Ok(block)
    }

    /// bf16 numbers from a standard normal distribution.
    pub(crate) fn bf16(&mut self, len: usize) -> Result<Block<D>> {
        self.normal(DType::Bf16, len)
    }

    /// As [`Inputs::bf16`], f32.
    pub(crate) fn f32(&mut self, len: usize) -> Result<Block<D>> {
        self.normal(DType::F32, len)
    }

    /// A block for results: whatever was there before.
    pub(crate) fn room(&self, dtype: DType, len: usize) -> Result<Block<D>> {
        self.ctx.arena.block(Class::Activations, dtype, len)
    }

    /// A block of one number.
    pub(crate) fn filled(&self, dtype: DType, value: f32, len: usize) -> Result<Block<D>> {
        let mut block = self.room(dtype, len)?;
        elementwise::fill(self.ctx, value, block.view_mut([len]))?;
        Ok(block)
    }

    /// Values of the host.
    pub(crate) fn values<T: Element>(&self, values: &[T]) -> Result<Block<D>> {
        let mut block = self.room(T::DTYPE, values.len())?;
        self.ctx.device.upload(values, block.view_mut([values.len()]))?;
        Ok(block)
    }

    /// Random numbers below `bound`.
    pub(crate) fn below(&mut self, bound: usize, len: usize) -> Vec<u32> {
        self.made += 1;
        let word = |i: u32| philox::philox4x32([i, 0, 0, 0], [self.made as u32, 7])[0];
        (0..len as u32).map(|i| ((u64::from(word(i)) * bound as u64) >> 32) as u32).collect()
    }
}

/// Bytes of so many bf16.
pub(crate) const fn bf16_bytes(len: usize) -> u64 {
    (len * size_of::<bf16>()) as u64
}
