//! Parameters: what each is called, how it starts, and where it lies in the flat groups.
//!
//! A *unit* is what is gathered, updated and reduced at once: the embedding, each block, the head; one
//! root unit holds embedding and head when they are tied. A unit owns flat *groups* of parameters that are
//! sharded alike: matrices (later cut by tensor parallelism) and vectors (replicated there).
//!
//! Invariant: the layout is a function of the model alone. A tensor starts at a multiple of
//! [`ALIGNMENT`] elements and a group's length is a multiple of [`CHUNK`], so every shard of a group ends
//! on a chunk of the fixed-order reductions.

use tisserand_kernels::ops::CHUNK;
use tisserand_kernels::ops::philox;
use tisserand_kernels::{Block, Storage, TensorMut, TensorRef};

/// Elements to whose multiples tensors are aligned inside a group.
pub const ALIGNMENT: usize = 128;

/// How a parameter starts.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum ParamInit {
    /// Normal with mean 0, keyed by (seed, name, global index).
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// Every element is this.
    Constant(f32),
}

/// One parameter.
#[derive(Clone, PartialEq, Debug)]
pub struct ParamSpec {
    /// Name in Hugging Face checkpoints.
    pub name: String,
    /// Global extents.
    pub shape: Vec<usize>,
    /// First element in its group.
    pub offset: usize,
    /// Start value.
    pub init: ParamInit,
    /// Key of its random numbers: a hash of the name.
    pub tensor_key: u64,
}

impl ParamSpec {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Parameters in one flat buffer.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct GroupLayout {
    /// In the order of their offsets.
    pub params: Vec<ParamSpec>,
    /// Elements, padding included.
    pub len: usize,
}

/// Parameters that are gathered, reduced and updated together.
#[derive(Clone, PartialEq, Debug)]
pub struct UnitLayout {
    /// For messages: "embedding", "block 3", "head".
    pub name: String,
    /// Matrices, then vectors; a group may be empty.
    pub groups: [GroupLayout; 2],
}

/// A parameter of a unit. Consecutive parameters may be addressed as one (gate and up, say).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParamId {
    group: usize,
    offset: usize,
    /// Extents of the view: [rows, columns] or [elements].
    rows: usize,
    columns: Option<usize>,
}

impl ParamId {
    fn extents(&self) -> tisserand_kernels::Shape {
        match self.columns {
            Some(columns) => [self.rows, columns].into(),
            None => [self.rows].into(),
        }
    }
}

const MATRICES: usize = 0;
const VECTORS: usize = 1;

impl UnitLayout {
    /// A unit without parameters.
    pub fn new(name: impl Into<String>) -> Self {
        UnitLayout { name: name.into(), groups: Default::default() }
    }

    /// Adds a matrix [rows, columns].
    pub fn matrix(&mut self, name: impl Into<String>, rows: usize, columns: usize, std: f64) -> ParamId {
        let offset = self.groups[MATRICES].push(name.into(), vec![rows, columns], ParamInit::Normal { std });
        ParamId { group: MATRICES, offset, rows, columns: Some(columns) }
    }

    /// Adds a vector.
    pub fn vector(&mut self, name: impl Into<String>, len: usize, value: f32) -> ParamId {
        let offset = self.groups[VECTORS].push(name.into(), vec![len], ParamInit::Constant(value));
        ParamId { group: VECTORS, offset, rows: len, columns: None }
    }

    /// Two parameters that were added one after the other, as one with the rows of both; used for gate and
    /// up, whose product is computed at once.
    ///
    /// # Panics
    /// If padding lies between them: [`UnitLayout::adjacent`] adds such pairs.
    pub fn joined(first: ParamId, second: ParamId) -> ParamId {
        let len = first.rows * first.columns.unwrap_or(1);
        assert_eq!(first.offset + len, second.offset, "joined parameters must be adjacent");
        ParamId { rows: first.rows + second.rows, ..first }
    }

    /// The next parameter is placed directly behind the last, without alignment.
    pub fn adjacent(&mut self, id: ParamId) {
        self.groups[id.group].len = id.offset + id.rows * id.columns.unwrap_or(1);
    }

    /// Every parameter, group by group.
    pub fn params(&self) -> impl Iterator<Item = &ParamSpec> {
        self.groups.iter().flat_map(|group| &group.params)
    }
}

impl GroupLayout {
    fn push(&mut self, name: String, shape: Vec<usize>, init: ParamInit) -> usize {
        let tensor_key = philox::tensor_key(&name);
        let spec = ParamSpec { name, shape, offset: self.len, init, tensor_key };
        let offset = spec.offset;
        self.len = (offset + spec.len()).next_multiple_of(ALIGNMENT);
        self.params.push(spec);
        offset
    }

    /// Elements of the flat buffer that `shards` ranks share: the last parameter's end, up to a whole chunk of
    /// every slice.
    pub fn padded_len(&self, shards: usize) -> usize {
        self.len.next_multiple_of(shards * CHUNK)
    }
}

/// The compute copy of a unit's parameters, for forward and backward.
pub struct UnitWeights<'a, D: Storage> {
    groups: [&'a Block<D>; 2],
}

impl<'a, D: Storage> UnitWeights<'a, D> {
    /// The copies of both groups.
    pub fn new(groups: [&'a Block<D>; 2]) -> Self {
        UnitWeights { groups }
    }

    /// One parameter.
    pub fn get(&self, id: ParamId) -> TensorRef<'a, D> {
        self.groups[id.group].range(id.offset, id.extents())
    }
}

/// The gradients of a unit's parameters; backward adds to them.
pub struct UnitGradients<'a, D: Storage> {
    groups: [&'a mut Block<D>; 2],
}

impl<'a, D: Storage> UnitGradients<'a, D> {
    /// The buffers of both groups, f32.
    pub fn new(groups: [&'a mut Block<D>; 2]) -> Self {
        UnitGradients { groups }
    }

    /// One parameter's gradient.
    pub fn get(&mut self, id: ParamId) -> TensorMut<'_, D> {
        self.groups[id.group].range_mut(id.offset, id.extents())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_aligned_and_groups_padded() {
        let mut unit = UnitLayout::new("test");
        let a = unit.matrix("a", 3, 5, 0.02);
        let b = unit.matrix("b", 2, 2, 0.02);
        let v = unit.vector("v", 7, 1.0);
        assert_eq!((a.offset, b.offset, v.offset), (0, 128, 0));
        assert_eq!(unit.groups.each_ref().map(|group| group.padded_len(1)), [1024, 1024]);
        assert_eq!(unit.params().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["a", "b", "v"]);
    }

    #[test]
    fn adjacent_parameters_join_to_one_matrix() {
        let mut unit = UnitLayout::new("test");
        let gate = unit.matrix("gate", 3, 5, 0.02);
        unit.adjacent(gate);
        let up = unit.matrix("up", 3, 5, 0.02);
        let both = UnitLayout::joined(gate, up);
        assert_eq!((both.offset, both.rows, both.columns), (0, 6, Some(5)));
    }
}
