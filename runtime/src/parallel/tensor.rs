//! Tensor parallelism as layers see it: every matrix is cut along `tp`, and activations pass from being cut by
//! tokens to being whole and back.
//!
//! The residual stream and the norms on it are cut by tokens (sequence parallelism: Korthikanti et al.,
//! arXiv:2205.05198). A layer whose matrix is cut by rows (query, key, value, gate, up, the loss) gathers its
//! tokens; one cut by columns (output, down) leaves a term of the sum on every rank, which is summed and cut by
//! tokens again. Backward passes are the mirror image, and gather their inputs again instead of keeping them.
//!
//! Where the tokens do not divide (generation, token by token), every rank has all of them: nothing is gathered, and
//! sums are left whole.

use std::cell::RefCell;

use tisserand_collectives::{Call, Communicator, ReduceOp, Single};
use tisserand_kernels::ops::cross_entropy::AcrossRanks;
use tisserand_kernels::{Block, Class, Context, Device, TensorRef};

use crate::error::{Error, Result};
use crate::params::Group;

/// A rank's place along `tp`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TpRank {
    /// Ranks.
    pub size: usize,
    /// Which of them.
    pub rank: usize,
}

impl TpRank {
    /// The whole model on one rank.
    pub const ALONE: TpRank = TpRank { size: 1, rank: 0 };

    /// How many ranks have the same key head.
    pub fn copies(&self, num_kv_heads: usize) -> usize {
        (self.size / num_kv_heads).max(1)
    }
}

/// The ranks along `tp`.
pub struct TensorParallel<D: Device> {
    place: TpRank,
    /// Layers share it; each call is waited for before the next layer goes on.
    communicator: RefCell<Box<dyn Communicator<D>>>,
    /// The ranks that have the same key heads.
    copies: RefCell<Box<dyn Communicator<D>>>,
}

/// How a pass lays its tokens out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tokens {
    /// The residual stream is cut by tokens.
    Cut,
    /// Every rank has all tokens.
    Whole,
}

/// All tokens of an activation: its own block, or the one it came from where nothing had to be gathered.
pub enum Gathered<'a, D: Device> {
    /// Gathered.
    Own(Block<D>),
    /// Whole already.
    Here(&'a Block<D>),
}

impl<D: Device> Gathered<'_, D> {
    /// The elements.
    pub fn view(&self, extents: [usize; 2]) -> TensorRef<'_, D> {
        match self {
            Gathered::Own(block) => block.view(extents),
            Gathered::Here(block) => block.view(extents),
        }
    }
}

impl<D: Device> TensorParallel<D> {
    /// The ranks of a communicator, and of one for those that have the same key heads.
    pub fn new(communicator: Box<dyn Communicator<D>>, copies: Box<dyn Communicator<D>>) -> Self {
        let place = TpRank { size: communicator.size(), rank: communicator.rank() };
        TensorParallel { place, communicator: RefCell::new(communicator), copies: RefCell::new(copies) }
    }

    /// One rank that has everything.
    pub fn single(device: &D) -> Self {
        let single = || Box::new(Single::new(device.clone()));
        Self::new(single(), single())
    }

    /// Whether this rank speaks for the parameters of a group that several ranks have.
    pub fn speaks_for(&self, group: Group) -> bool {
        match group {
            Group::Matrices | Group::Biases => true,
            Group::Copies => self.copies.borrow().rank() == 0,
            Group::Vectors => self.place.rank == 0,
        }
    }

    /// The sum over the ranks that have the same parameters of a group.
    ///
    /// # Errors
    /// Of the communicator.
    pub fn sum_of_group(&self, group: Group, block: Block<D>) -> Result<Block<D>> {
        let call = Call::AllReduce(ReduceOp::Sum);
        match group {
            Group::Matrices | Group::Biases => Ok(block),
            Group::Copies => Ok(self.copies.borrow_mut().run(call, block)?),
            Group::Vectors => self.run(call, block),
        }
    }

    /// This rank's place.
    pub fn place(&self) -> TpRank {
        self.place
    }

    /// Calls and bytes so far.
    pub fn audit(&self) -> tisserand_collectives::Audit {
        self.communicator.borrow().audit().and(&self.copies.borrow().audit())
    }

    /// One call from start to end.
    ///
    /// # Errors
    /// Of the communicator.
    pub fn run(&self, call: Call, block: Block<D>) -> Result<Block<D>> {
        Ok(self.communicator.borrow_mut().run(call, block)?)
    }

    /// All tokens of `x`, of which this rank has its part in the order of ranks.
    ///
    /// # Errors
    /// Of the communicator.
    pub fn gather_tokens<'a>(
        &self,
        ctx: &Context<D>,
        tokens: Tokens,
        x: &'a Block<D>,
    ) -> Result<Gathered<'a, D>> {
        let TpRank { size, rank } = self.place;
        if size == 1 || tokens == Tokens::Whole {
            return Ok(Gathered::Here(x));
        }
        let len = x.len();
        let mut all = ctx.arena.block(Class::Communication, x.dtype(), size * len)?;
        ctx.device.copy(x.view([len]), all.range_mut(rank * len, [len]))?;
        Ok(Gathered::Own(self.run(Call::AllGather, all)?))
    }

    /// The sum over ranks of `term`, of which this rank keeps its part of the tokens.
    ///
    /// # Errors
    /// Of the communicator.
    pub fn scatter_tokens(&self, ctx: &Context<D>, tokens: Tokens, term: Block<D>) -> Result<Block<D>> {
        let TpRank { size, rank } = self.place;
        if size == 1 {
            return Ok(term);
        }
        if tokens == Tokens::Whole {
            return self.run(Call::AllReduce(ReduceOp::Sum), term);
        }
        let sum = self.run(Call::ReduceScatter(ReduceOp::Sum), term)?;
        let len = sum.len() / size;
        let mut part = ctx.arena.block(Class::Activations, sum.dtype(), len)?;
        ctx.device.copy(sum.range(rank * len, [len]), part.view_mut([len]))?;
        Ok(part)
    }
}

/// What the vocabulary-parallel loss asks of the other ranks.
pub struct AcrossVocabulary<'a, D: Device>(pub &'a TensorParallel<D>);

impl<D: Device> AcrossRanks<D> for AcrossVocabulary<'_, D> {
    type Error = Error;

    fn rank(&self) -> usize {
        self.0.place.rank
    }

    fn size(&self) -> usize {
        self.0.place.size
    }

    fn max(&mut self, values: Block<D>) -> Result<Block<D>> {
        self.0.run(Call::AllReduce(ReduceOp::Max), values)
    }

    fn sum(&mut self, values: Block<D>) -> Result<Block<D>> {
        self.0.run(Call::AllReduce(ReduceOp::Sum), values)
    }
}
