//! Parameters: what each is called, how it starts, and where it lies in the flat groups.
//!
//! A *unit* is what is gathered, updated and reduced at once: the embedding, each block, the head; one
//! root unit holds embedding and head when they are tied. A unit owns flat *groups* ([`Group`]) of parameters that
//! lie alike on the mesh.
//!
//! Invariant: the layout is a function of the model and of tensor parallelism alone. A tensor starts at a multiple
//! of [`ALIGNMENT`] elements and a group's length is a multiple of [`CHUNK`] for every slice, so every shard of a
//! group ends on a chunk of the fixed-order reductions.

use std::ops::Range;

use tisserand_kernels::ops::CHUNK;
use tisserand_kernels::ops::philox::{self, GlobalIndex};
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

/// Which part of a global tensor is here. Ranks along `tp` have the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// All of it.
    Whole,
    /// `rows` rows from row `first` on; those beyond the last of the tensor are padding, and zero.
    Rows {
        /// First row of the global tensor.
        first: usize,
        /// Rows here.
        rows: usize,
    },
    /// `columns` columns of every row, from column `first` on.
    Columns {
        /// First column of the global tensor.
        first: usize,
        /// Columns here.
        columns: usize,
    },
}

/// Consecutive elements both of a parameter here and of the global tensor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// First element here.
    pub local: usize,
    /// First element of the global tensor.
    pub global: usize,
    /// Number of elements.
    pub len: usize,
}

/// One parameter.
#[derive(Clone, PartialEq, Debug)]
pub struct ParamSpec {
    /// Name in Hugging Face checkpoints.
    pub name: String,
    /// Global extents.
    pub shape: Vec<usize>,
    /// What of it is here.
    pub cut: Cut,
    /// First element in its group.
    pub offset: usize,
    /// Start value.
    pub init: ParamInit,
    /// Key of its random numbers: a hash of the name.
    pub tensor_key: u64,
}

impl ParamSpec {
    /// Elements here, padding rows included.
    pub fn len(&self) -> usize {
        let [rows, columns] = self.global_grid();
        match self.cut {
            Cut::Whole => rows * columns,
            Cut::Rows { rows, .. } => rows * columns,
            Cut::Columns { columns, .. } => rows * columns,
        }
    }

    /// Whether there is no element here.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements here before the padding.
    pub fn valid_len(&self) -> usize {
        let [rows, columns] = self.global_grid();
        match self.cut {
            Cut::Rows { first, rows: here } => here.min(rows.saturating_sub(first)) * columns,
            _ => self.len(),
        }
    }

    /// Elements of the global tensor.
    pub fn global_len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Rows and columns of the global tensor; a vector is a column.
    fn global_grid(&self) -> [usize; 2] {
        [self.shape[0], self.shape[1..].iter().product()]
    }

    /// The place of element `local` in the global tensor, and of those that follow it.
    pub fn index(&self, local: usize) -> GlobalIndex {
        let [_, columns] = self.global_grid();
        match self.cut {
            Cut::Whole => GlobalIndex::contiguous(local as u64),
            Cut::Rows { first, .. } => GlobalIndex::contiguous((first * columns + local) as u64),
            Cut::Columns { first, columns: here } => {
                GlobalIndex::columns(first as u64, here, columns).advance(local)
            }
        }
    }

    /// The elements of `range` as runs of the global tensor, without padding.
    pub fn runs(&self, range: Range<usize>) -> impl Iterator<Item = Run> + use<> {
        let [_, columns] = self.global_grid();
        let run = if let Cut::Columns { columns: here, .. } = self.cut { here.max(1) } else { usize::MAX };
        let cut = self.cut;
        let global = move |local: usize| match cut {
            Cut::Whole => local,
            Cut::Rows { first, .. } => first * columns + local,
            Cut::Columns { first, columns: here } => local / here * columns + first + local % here,
        };
        let (mut local, end) = (range.start, range.end.min(self.valid_len()));
        std::iter::from_fn(move || {
            if local >= end {
                return None;
            }
            let len = (run - local % run).min(end - local);
            let run = Run { local, global: global(local), len };
            local += len;
            Some(run)
        })
    }
}

/// What the parameters of a flat group have in common: their place along `tp`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Group {
    /// Matrices, cut along `tp`.
    Matrices,
    /// Vectors, cut along `tp`: biases of what is cut by rows.
    Biases,
    /// Keys and values where `tp` exceeds the key heads: several ranks have the same ones.
    Copies,
    /// Vectors that every rank along `tp` has whole.
    Vectors,
}

impl Group {
    /// Every group, in the order of a unit's.
    pub const ALL: [Group; 4] = [Group::Matrices, Group::Biases, Group::Copies, Group::Vectors];
    /// Number of groups.
    pub const COUNT: usize = Group::ALL.len();
}

/// Something for each group of a unit.
pub type PerGroup<T> = [T; Group::COUNT];

/// One value for each group.
///
/// # Errors
/// The first of `make`.
pub fn per_group<'a, T, E>(
    layout: &'a UnitLayout,
    mut make: impl FnMut(&'a GroupLayout) -> Result<T, E>,
) -> Result<PerGroup<T>, E> {
    let [a, b, c, d] = &layout.groups;
    Ok([make(a)?, make(b)?, make(c)?, make(d)?])
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
    /// In the order of [`Group::ALL`]; a group may be empty.
    pub groups: PerGroup<GroupLayout>,
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

impl UnitLayout {
    /// A unit without parameters.
    pub fn new(name: impl Into<String>) -> Self {
        UnitLayout { name: name.into(), groups: Default::default() }
    }

    /// Adds a matrix of these global extents, of which `cut` is here.
    pub fn matrix(
        &mut self,
        group: Group,
        name: impl Into<String>,
        shape: [usize; 2],
        cut: Cut,
        std: f64,
    ) -> ParamId {
        let group = group as usize;
        let offset = self.groups[group].push(name.into(), shape.to_vec(), cut, ParamInit::Normal { std });
        let [rows, columns] = match cut {
            Cut::Whole => shape,
            Cut::Rows { rows, .. } => [rows, shape[1]],
            Cut::Columns { columns, .. } => [shape[0], columns],
        };
        ParamId { group, offset, rows, columns: Some(columns) }
    }

    /// Adds a vector of this global length, of which `cut` is here.
    pub fn vector(
        &mut self,
        group: Group,
        name: impl Into<String>,
        len: usize,
        cut: Cut,
        value: f32,
    ) -> ParamId {
        let group = group as usize;
        let offset = self.groups[group].push(name.into(), vec![len], cut, ParamInit::Constant(value));
        let rows = match cut {
            Cut::Rows { rows, .. } => rows,
            _ => len,
        };
        ParamId { group, offset, rows, columns: None }
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
    fn push(&mut self, name: String, shape: Vec<usize>, cut: Cut, init: ParamInit) -> usize {
        let tensor_key = philox::tensor_key(&name);
        let spec = ParamSpec { name, shape, cut, offset: self.len, init, tensor_key };
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
    groups: PerGroup<&'a Block<D>>,
}

impl<'a, D: Storage> UnitWeights<'a, D> {
    /// The copies of all groups.
    pub fn new(groups: PerGroup<&'a Block<D>>) -> Self {
        UnitWeights { groups }
    }

    /// One parameter.
    pub fn get(&self, id: ParamId) -> TensorRef<'a, D> {
        self.groups[id.group].range(id.offset, id.extents())
    }
}

/// The gradients of a unit's parameters; backward adds to them.
pub struct UnitGradients<'a, D: Storage> {
    groups: PerGroup<&'a mut Block<D>>,
}

impl<'a, D: Storage> UnitGradients<'a, D> {
    /// The buffers of all groups, f32.
    pub fn new(groups: PerGroup<&'a mut Block<D>>) -> Self {
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

    fn matrix(unit: &mut UnitLayout, name: &str, shape: [usize; 2], cut: Cut) -> ParamId {
        unit.matrix(Group::Matrices, name, shape, cut, 0.02)
    }

    #[test]
    fn parameters_are_aligned_and_groups_padded() {
        let mut unit = UnitLayout::new("test");
        let a = matrix(&mut unit, "a", [3, 5], Cut::Whole);
        let b = matrix(&mut unit, "b", [2, 2], Cut::Whole);
        let v = unit.vector(Group::Vectors, "v", 7, Cut::Whole, 1.0);
        assert_eq!((a.offset, b.offset, v.offset), (0, 128, 0));
        assert_eq!(unit.groups.each_ref().map(|group| group.padded_len(1)), [1024, 0, 0, 1024]);
        assert_eq!(unit.groups.each_ref().map(|group| group.padded_len(3)), [3072, 0, 0, 3072]);
        assert_eq!(unit.params().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["a", "b", "v"]);
    }

    #[test]
    fn adjacent_parameters_join_to_one_matrix() {
        let mut unit = UnitLayout::new("test");
        let gate = matrix(&mut unit, "gate", [3, 5], Cut::Whole);
        unit.adjacent(gate);
        let up = matrix(&mut unit, "up", [3, 5], Cut::Whole);
        let both = UnitLayout::joined(gate, up);
        assert_eq!((both.offset, both.rows, both.columns), (0, 6, Some(5)));
    }

    #[test]
    fn cuts_cover_the_tensor_once_and_padding_is_no_part_of_it() {
        let shape = [7, 6];
        let rows = |first| Cut::Rows { first, rows: 3 };
        let columns = |first| Cut::Columns { first, columns: 2 };
        for cuts in [[rows(0), rows(3), rows(6)], [columns(0), columns(2), columns(4)]] {
            let mut seen = vec![0; 42];
            for cut in cuts {
                let mut unit = UnitLayout::new("test");
                matrix(&mut unit, "a", shape, cut);
                let param = unit.params().next().unwrap();
                // In pieces that do not end with rows.
                for start in (0..param.len()).step_by(5) {
                    for run in param.runs(start..(start + 5).min(param.len())) {
                        assert_eq!(param.index(run.local).at(0), run.global as u64, "{cut:?}");
                        (run.global..run.global + run.len).for_each(|element| seen[element] += 1);
                    }
                }
            }
            assert!(seen.iter().all(|count| *count == 1), "{cuts:?}: {seen:?}");
        }
    }
}
