//! Sums of squares and the summation tree on the host.

use rayon::prelude::*;

use super::elementwise::{Term, reduce_chunks};
use super::{Cpu, vectorize};
use crate::ops::grad_norm::GradNormKernels;
use crate::ops::{CHUNK, Write};
use crate::{Result, TensorMut, TensorRef};

impl GradNormKernels for Cpu {
    fn sum_of_squares(&self, x: TensorRef<'_, Self>, partials: TensorMut<'_, Self>) -> Result<()> {
        let (x, partials) = (x.as_slice::<f32>(), partials.into_slice::<f32>());
        self.run(|| reduce_chunks(Term::Square, x, partials));
        Ok(())
    }

    fn tree_sum(&self, write: Write, partials: TensorMut<'_, Self>, out: TensorMut<'_, Self>) -> Result<()> {
        let partials = partials.into_slice::<f32>();
        let sum = self.run(|| tree_sum(partials));
        let out = out.into_slice::<f32>();
        match write {
            Write::Replace => out[0] = sum,
            Write::Add => out[0] += sum,
        }
        Ok(())
    }
}

/// The tree over all values. While there are many, aligned subtrees of [`CHUNK`] leaves are reduced in
/// parallel: an aligned range of a power of two is one node of the tree, so the bits are the same.
fn tree_sum(values: &mut [f32]) -> f32 {
    let mut len = values.len();
    while len > CHUNK {
        values[..len].par_chunks_mut(CHUNK).for_each(|leaves| leaves[0] = vectorize!(subtree_sum(leaves)));
        len = len.div_ceil(CHUNK);
        for node in 1..len {
            values[node] = values[node * CHUNK];
        }
    }
    vectorize!(subtree_sum(&mut values[..len]))
}

/// The tree over a few values, level by level in place.
#[inline(always)]
fn subtree_sum(values: &mut [f32]) -> f32 {
    let mut len = values.len();
    while len > 1 {
        let pairs = len / 2;
        for node in 0..pairs {
            values[node] = values[2 * node] + values[2 * node + 1];
        }
        if len % 2 == 1 {
            values[pairs] = values[len - 1];
        }
        len = len.div_ceil(2);
    }
    values.first().copied().unwrap_or(0.0)
}
