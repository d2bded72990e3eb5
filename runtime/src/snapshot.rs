//! What a rank writes of a checkpoint: global elements, each by one rank.
//!
//! Ranks with the same slices share them out. What is cut along `tp` by columns would be written in runs of a
//! fraction of a row, so the ranks along `tp` gather it and each writes whole rows.

use std::ops::Range;

use tisserand_collectives::Call;
use tisserand_kernels::{Class, DType, Device, TensorRef, match_float};

use crate::engine::{Engine, Part};
use crate::error::Result;
use crate::params::{Cut, Group, ParamSpec};
use crate::step::Executor;
use crate::step::state::{Piece, STAGED_ELEMENTS, pieces};

/// Consecutive elements of a global tensor.
#[derive(Clone, PartialEq, Debug)]
pub struct SavedRun {
    /// Name of the parameter.
    pub name: String,
    /// First element of the global tensor.
    pub start: usize,
    /// The elements, as they are stored.
    pub bytes: Vec<u8>,
}

impl<D: Device> Executor<D> {
    /// What this rank writes of a part. All ranks call it.
    ///
    /// # Errors
    /// Of the device and of the communicator.
    pub(crate) fn take_snapshot(&self, part: Part) -> Result<Vec<SavedRun>> {
        let (model, sharding) = (&self.network.model, self.config().sharding);
        let tp = &self.network.inputs.tp;
        let is_gathered = |piece: &Piece<'_>| matches!(piece.param.cut, Cut::Columns { .. });
        let (gathered, others): (Vec<_>, Vec<_>) = pieces(model, sharding).partition(is_gathered);
        let spoken_for = |piece: &Piece<'_>| tp.speaks_for(Group::ALL[piece.group]);
        let others: Vec<_> = others.into_iter().filter(spoken_for).collect();
        let mut saved = Vec::new();
        for piece in shared_out(others, sharding.replicas()) {
            let mut bytes = Vec::new();
            self.read_piece(&piece, part, &mut bytes)?;
            let size_bytes = self.dtype(part).size_bytes();
            saved.extend(piece.runs().map(|run| {
                let bytes = bytes[run.local * size_bytes..][..run.len * size_bytes].to_vec();
                SavedRun { name: piece.param.name.clone(), start: run.global, bytes }
            }));
        }
        // The same list on every rank along `tp`: they lie alike there.
        for piece in shared_out(gathered, sharding.replicas()) {
            for piece in self.staged(piece) {
                let all = self.gather_columns(&piece, part)?;
                let rows = Rows { piece, size_bytes: self.dtype(part).size_bytes(), all: &all };
                rows.save(tp.place().rank, tp.place().size, &mut saved);
            }
        }
        Ok(saved)
    }

    /// Takes and returns the workspace of a snapshot, and nothing else: for dry runs.
    ///
    /// # Errors
    /// A full arena.
    pub(crate) fn reserve_snapshot(&self) -> Result<()> {
        let (model, sharding) = (&self.network.model, self.config().sharding);
        let gathered = pieces(model, sharding).filter(|piece| matches!(piece.param.cut, Cut::Columns { .. }));
        let longest = shared_out(gathered.collect(), sharding.replicas())
            .into_iter()
            .flat_map(|piece| self.staged(piece))
            .map(|piece| piece.len)
            .max();
        let elements = longest.unwrap_or(0) * sharding.tp().size;
        for part in [Part::Weights, Part::Master, Part::ExpAvg] {
            self.network.ctx.arena.block(Class::Workspace, self.dtype(part), elements)?;
        }
        Ok(())
    }

    /// A piece in parts that are gathered at once.
    fn staged<'a>(&self, piece: Piece<'a>) -> impl Iterator<Item = Piece<'a>> + use<'a, D> {
        let most = STAGED_ELEMENTS / self.config().sharding.tp().size;
        (0..piece.len).step_by(most).map(move |start| piece.part(start, most.min(piece.len - start)))
    }

    /// The same elements of every rank along `tp`, one rank's behind the other's.
    fn gather_columns(&self, piece: &Piece<'_>, part: Part) -> Result<Vec<u8>> {
        let tp = &self.network.inputs.tp;
        let (ctx, place, len) = (&self.network.ctx, tp.place(), piece.len);
        let mut block = ctx.arena.block(Class::Workspace, self.dtype(part), place.size * len)?;
        ctx.device.copy(self.part(piece, part), block.range_mut(place.rank * len, [len]))?;
        let block = tp.run(Call::AllGather, block)?;
        download_bytes(&ctx.device, block.view([block.len()]))
    }
}

/// Elements as they are stored.
fn download_bytes<D: Device>(device: &D, tensor: TensorRef<'_, D>) -> Result<Vec<u8>> {
    debug_assert!(matches!(tensor.dtype(), DType::F32 | DType::Bf16), "the state is floating-point");
    match_float!(tensor.dtype(), T => {
        let mut values = vec![<T as tisserand_kernels::Float>::from_f32(0.0); tensor.len()];
        device.download(tensor, &mut values)?;
        Ok(bytemuck::cast_slice(&values).to_vec())
    })
}

/// A piece of a tensor cut by columns, with that of every rank.
struct Rows<'a> {
    piece: Piece<'a>,
    size_bytes: usize,
    /// Every rank's elements of the piece, in the order of ranks.
    all: &'a [u8],
}

impl Rows<'_> {
    /// Adds the share of `rank` of `ranks`: rows in one run where they are whole.
    fn save(&self, rank: usize, ranks: usize, saved: &mut Vec<SavedRun>) {
        let Piece { param, start, len, .. } = self.piece;
        let Cut::Columns { columns: here, .. } = param.cut else {
            unreachable!("only such pieces are gathered")
        };
        let (first, end) = (start / here, (start + len).div_ceil(here));
        let share = |rank: usize| first + (end - first) * rank / ranks;
        for row in share(rank)..share(rank + 1) {
            let local = start.max(row * here)..(start + len).min((row + 1) * here);
            for other in 0..ranks {
                let global = global_start(param, local.start, other);
                self.append(global, other, local.clone(), saved);
            }
        }
    }

    /// Elements of one rank, joined to the run before them if they follow it.
    fn append(&self, global: usize, rank: usize, local: Range<usize>, saved: &mut Vec<SavedRun>) {
        let Piece { param, start, len, .. } = self.piece;
        let at = (rank * len + local.start - start) * self.size_bytes;
        let bytes = &self.all[at..at + local.len() * self.size_bytes];
        match saved.last_mut() {
            Some(last)
                if last.name == param.name && last.start + last.bytes.len() / self.size_bytes == global =>
            {
                last.bytes.extend_from_slice(bytes);
            }
            _ => saved.push(SavedRun { name: param.name.clone(), start: global, bytes: bytes.to_vec() }),
        }
    }
}

/// The place in the global tensor of element `local` of another rank along `tp`.
fn global_start(param: &ParamSpec, local: usize, rank: usize) -> usize {
    let Cut::Columns { columns, .. } = param.cut else { unreachable!("only such pieces are gathered") };
    let other = ParamSpec { cut: Cut::Columns { first: rank * columns, columns }, ..param.clone() };
    other.index(local).at(0) as usize
}

/// Part `rank` of `ranks` parts, equal to the element, of what all of these ranks hold.
fn shared_out<'a>(pieces: Vec<Piece<'a>>, (ranks, rank): (usize, usize)) -> Vec<Piece<'a>> {
    let total: usize = pieces.iter().map(|piece| piece.len).sum();
    let bound = |rank: usize| (rank as u128 * total as u128 / ranks as u128) as usize;
    let (first, end) = (bound(rank), bound(rank + 1));
    let mut before = 0;
    let mut mine = Vec::new();
    for piece in pieces {
        let (from, to) = (first.clamp(before, before + piece.len), end.clamp(before, before + piece.len));
        if from < to {
            mine.push(piece.part(from - before, to - from));
        }
        before += piece.len;
    }
    mine
}
