//! Several tensors into one on the host: the tree over the tensors, piece by piece, so that what is between
//! its levels stays in the first-level cache.

use half::bf16;
use rayon::prelude::*;

use super::{Cpu, ELEMENTS_PER_TASK, vectorize};
use crate::ops::elementwise::Combine;
use crate::{Element, Float, TensorMut, TensorRef};

/// Elements that pass through the tree at once.
const PIECE: usize = 512;

/// An element type whose combinations are computed as `A`.
pub(super) trait Term<A: Copy>: Element {
    fn widen(self) -> A;
    fn narrow(value: A) -> Self;
}

/// What elements are combined as.
pub(super) trait Accumulator: Copy + Default + Send + Sync {
    fn add(self, other: Self) -> Self;
    fn max(self, other: Self) -> Self;
}

impl Accumulator for f32 {
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self + other
    }

    /// Unlike `f32::max`, NaN if either is NaN.
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        if self > other || self.is_nan() { self } else { other }
    }
}

macro_rules! integers {
    ($($integer:ty),*) => {$(
        impl Accumulator for $integer {
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn max(self, other: Self) -> Self {
                Ord::max(self, other)
            }
        }
        impl Term<$integer> for $integer {
            #[inline(always)]
            fn widen(self) -> $integer {
                self
            }
            #[inline(always)]
            fn narrow(value: $integer) -> Self {
                value
            }
        }
    )*};
}
integers!(u32, i32, u8);

macro_rules! floats {
    ($($float:ty),*) => {$(
        impl Term<f32> for $float {
            #[inline(always)]
            fn widen(self) -> f32 {
                self.to_f32()
            }
            #[inline(always)]
            fn narrow(value: f32) -> Self {
                Float::from_f32(value)
            }
        }
    )*};
}
floats!(f32, bf16);

/// `own` = the tree over `before`, `own`, `after`.
pub(super) fn combine_in<T: Term<A>, A: Accumulator>(
    how: Combine,
    before: &[TensorRef<'_, Cpu>],
    own: TensorMut<'_, Cpu>,
    after: &[TensorRef<'_, Cpu>],
) {
    let own = own.into_slice::<T>();
    own.par_chunks_mut(ELEMENTS_PER_TASK).enumerate().for_each(|(task, own)| {
        let start = task * ELEMENTS_PER_TASK;
        let terms = Terms { before, after, own_index: before.len() };
        vectorize!(match how {
            Combine::Sum => task_of(&terms, start, own, |a: A, b| a.add(b)),
            Combine::Max => task_of(&terms, start, own, |a: A, b| a.max(b)),
        });
    });
}

/// The tensors other than `own`, and where it stands among them.
struct Terms<'a> {
    before: &'a [TensorRef<'a, Cpu>],
    after: &'a [TensorRef<'a, Cpu>],
    own_index: usize,
}

impl Terms<'_> {
    fn len(&self) -> usize {
        self.before.len() + 1 + self.after.len()
    }

    fn get<T: Element>(&self, index: usize) -> &[T] {
        let tensors = if index < self.own_index { self.before } else { self.after };
        let index = if index < self.own_index { index } else { index - self.own_index - 1 };
        tensors[index].as_slice()
    }
}

#[inline(always)]
fn task_of<T: Term<A>, A: Accumulator>(
    terms: &Terms<'_>,
    start: usize,
    own: &mut [T],
    combine: impl Fn(A, A) -> A + Copy,
) {
    // Two tensors need no buffer between levels.
    if terms.len() == 2 {
        let other = terms.get::<T>(1 - terms.own_index);
        let other = &other[start..start + own.len()];
        for (own, other) in own.iter_mut().zip(other) {
            let (a, b) = if terms.own_index == 0 { (*own, *other) } else { (*other, *own) };
            *own = T::narrow(combine(a.widen(), b.widen()));
        }
        return;
    }
    for (piece, own) in own.chunks_mut(PIECE).enumerate() {
        let mut out = [A::default(); PIECE];
        let out = &mut out[..own.len()];
        tree(terms, 0..terms.len(), start + piece * PIECE, own, out, combine);
        for (own, value) in own.iter_mut().zip(out) {
            *own = T::narrow(*value);
        }
    }
}

/// The node over the tensors of `range`: the left branch holds the largest power of two below their number.
fn tree<T: Term<A>, A: Accumulator>(
    terms: &Terms<'_>,
    range: std::ops::Range<usize>,
    start: usize,
    own: &[T],
    out: &mut [A],
    combine: impl Fn(A, A) -> A + Copy,
) {
    if range.len() == 1 {
        let term = if range.start == terms.own_index { own } else { &terms.get::<T>(range.start)[start..] };
        vectorize!(for (out, term) in out.iter_mut().zip(term) {
            *out = term.widen();
        });
        return;
    }
    let middle = range.start + range.len().next_power_of_two() / 2;
    tree(terms, range.start..middle, start, own, out, combine);
    let mut right = [A::default(); PIECE];
    let right = &mut right[..out.len()];
    tree(terms, middle..range.end, start, own, right, combine);
    vectorize!(for (out, right) in out.iter_mut().zip(right) {
        *out = combine(*out, *right);
    });
}
