//! Softmax cross-entropy of rows of logits on the host: one exponential per logit, sums in fixed lanes. The
//! kernel of one rank and the phases of several are made of the same functions of a row, so a rank that holds
//! all classes has the same bits either way.

use rayon::prelude::*;

use super::{Cpu, LANES, vectorize};
use crate::math::exp;
use crate::ops::cross_entropy::{
    CrossEntropyKernels, CrossEntropyParams, CrossEntropyShape, IGNORED, ShardShape,
};
use crate::{Result, TensorMut, TensorRef};

impl CrossEntropyKernels for Cpu {
    fn softmax_cross_entropy_rows(
        &self,
        shape: CrossEntropyShape,
        params: &CrossEntropyParams,
        loss_scale: Option<TensorRef<'_, Self>>,
        logits: TensorMut<'_, Self>,
        _dlogits: Option<TensorMut<'_, Self>>,
        labels: TensorRef<'_, Self>,
        cross_entropy: TensorMut<'_, Self>,
        z_losses: TensorMut<'_, Self>,
    ) -> Result<()> {
        let (logits, labels) = (logits.into_slice::<f32>(), labels.as_slice::<i32>());
        let (cross_entropy, z_losses) = (cross_entropy.into_slice::<f32>(), z_losses.into_slice::<f32>());
        let loss_scale = loss_scale.map(|scale| scale.as_slice::<f32>()[0]);
        let vocab_size = shape.vocab_size;
        let rows = logits.par_chunks_mut(vocab_size.max(1)).zip(labels);
        let rows =
            rows.zip(cross_entropy).zip(z_losses).with_min_len(ROWS_PER_TASK).with_max_len(ROWS_PER_TASK);
        self.run(|| {
            rows.for_each(|(((logits, &label), cross_entropy), z_loss)| {
                vectorize!({
                    (*cross_entropy, *z_loss) = match target(label, vocab_size) {
                        Some(target) => row(params.z_loss, loss_scale, logits, target),
                        None => {
                            logits.fill(0.0);
                            (0.0, 0.0)
                        }
                    };
                });
            });
        });
        Ok(())
    }

    fn shard_maxima(
        &self,
        shape: ShardShape,
        logits: TensorRef<'_, Self>,
        maxima: TensorMut<'_, Self>,
    ) -> Result<()> {
        let (logits, maxima) = (logits.as_slice::<f32>(), maxima.into_slice::<f32>());
        // What remains where a rank has no class, and so no row of logits.
        maxima.fill(f32::NEG_INFINITY);
        let rows = logits.par_chunks(shape.classes.max(1)).zip(maxima);
        let rows = rows.with_min_len(ROWS_PER_TASK).with_max_len(ROWS_PER_TASK);
        self.run(|| rows.for_each(|(logits, max)| vectorize!(*max = lane_max(logits))));
        Ok(())
    }

    fn shard_terms(
        &self,
        shape: ShardShape,
        labels: TensorRef<'_, Self>,
        maxima: TensorRef<'_, Self>,
        logits: TensorMut<'_, Self>,
        terms: TensorMut<'_, Self>,
    ) -> Result<()> {
        let (logits, labels) = (logits.into_slice::<f32>(), labels.as_slice::<i32>());
        let (maxima, terms) = (maxima.as_slice::<f32>(), terms.into_slice::<f32>());
        terms.fill(0.0);
        let (sums, targets) = terms.split_at_mut(shape.tokens);
        let rows = logits.par_chunks_mut(shape.classes.max(1)).zip(labels).zip(maxima).zip(sums).zip(targets);
        let rows = rows.with_min_len(ROWS_PER_TASK).with_max_len(ROWS_PER_TASK);
        self.run(|| {
            rows.for_each(|((((logits, &label), &max), sum), target_logit)| {
                let Some(target) = target(label, shape.vocab_size) else { return };
                if let Some(target) = shape.local(target) {
                    *target_logit = logits[target];
                }
                vectorize!(*sum = exp_and_sum(logits, max));
            });
        });
        Ok(())
    }

    fn shard_losses(
        &self,
        shape: ShardShape,
        params: &CrossEntropyParams,
        loss_scale: Option<TensorRef<'_, Self>>,
        labels: TensorRef<'_, Self>,
        maxima: TensorRef<'_, Self>,
        terms: TensorRef<'_, Self>,
        exponentials: TensorMut<'_, Self>,
        _dlogits: Option<TensorMut<'_, Self>>,
        cross_entropy: TensorMut<'_, Self>,
        z_losses: TensorMut<'_, Self>,
    ) -> Result<()> {
        let (labels, maxima) = (labels.as_slice::<i32>(), maxima.as_slice::<f32>());
        let (sums, targets) = terms.as_slice::<f32>().split_at(shape.tokens);
        let (cross_entropy, z_losses) = (cross_entropy.into_slice::<f32>(), z_losses.into_slice::<f32>());
        let softmax = |t: usize| Softmax { z_loss: params.z_loss, max: maxima[t], sum: sums[t] };
        for (t, &label) in labels.iter().enumerate() {
            (cross_entropy[t], z_losses[t]) = match target(label, shape.vocab_size) {
                Some(_) => softmax(t).losses(targets[t]),
                None => (0.0, 0.0),
            };
        }
        let Some(loss_scale) = loss_scale else { return Ok(()) };
        let loss_scale = loss_scale.as_slice::<f32>()[0];
        let rows = exponentials.into_slice::<f32>().par_chunks_mut(shape.classes.max(1)).zip(labels);
        let rows = rows.enumerate().with_min_len(ROWS_PER_TASK).with_max_len(ROWS_PER_TASK);
        self.run(|| {
            rows.for_each(|(t, (exponentials, &label))| match target(label, shape.vocab_size) {
                Some(target) => {
                    vectorize!(softmax(t).gradient(loss_scale, exponentials, shape.local(target)))
                }
                None => exponentials.fill(0.0),
            });
        });
        Ok(())
    }
}

/// Rows per task: a row of a small vocabulary is less work than starting a task.
const ROWS_PER_TASK: usize = 4;

/// The class that a label names, none for ignored tokens. Labels are the op's precondition.
fn target(label: i32, vocab_size: usize) -> Option<usize> {
    if label == IGNORED {
        return None;
    }
    match usize::try_from(label) {
        Ok(target) if target < vocab_size => Some(target),
        _ => panic!(
            "label {label} is neither {IGNORED} nor below vocab_size {vocab_size}; the loader admits no such label"
        ),
    }
}

/// Returns the row's (cross-entropy, z-loss) and replaces its logits by their gradient.
#[inline(always)]
fn row(z_loss: f32, loss_scale: Option<f32>, logits: &mut [f32], target: usize) -> (f32, f32) {
    let max = lane_max(logits);
    let target_logit = logits[target];
    let softmax = Softmax { z_loss, max, sum: exp_and_sum(logits, max) };
    if let Some(loss_scale) = loss_scale {
        softmax.gradient(loss_scale, logits, Some(target));
    }
    softmax.losses(target_logit)
}

/// What a row's loss and gradient need of all its logits.
struct Softmax {
    z_loss: f32,
    max: f32,
    sum: f32,
}

impl Softmax {
    #[inline(always)]
    fn log_sum(&self) -> f32 {
        f64::from(self.sum).ln() as f32
    }

    #[inline(always)]
    fn logsumexp(&self) -> f32 {
        self.max + self.log_sum()
    }

    /// (cross-entropy, z-loss).
    #[inline(always)]
    fn losses(&self, target_logit: f32) -> (f32, f32) {
        let logsumexp = self.logsumexp();
        // The difference of the two large terms is taken first, so that large logits cost no digits.
        (self.max - target_logit + self.log_sum(), self.z_loss * logsumexp * logsumexp)
    }

    /// Replaces `e^(logit - max)` by the gradient of the logit; `target` is the label's place, if it is here.
    #[inline(always)]
    fn gradient(&self, loss_scale: f32, exponentials: &mut [f32], target: Option<usize>) {
        let factor = loss_scale * (1.0 + 2.0 * self.z_loss * self.logsumexp()) / self.sum;
        exponentials.iter_mut().for_each(|e| *e = without_subnormal(*e * factor));
        if let Some(target) = target {
            exponentials[target] -= loss_scale;
        }
    }
}

/// Zero for what is smaller than every normal number: the two products that read the gradient would be a
/// hundred times slower on a model that is sure of its predictions.
#[inline(always)]
fn without_subnormal(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0 } else { x }
}

/// The largest element that is a number.
#[inline(always)]
fn lane_max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let whole = x.chunks_exact(LANES);
    let rest = whole.remainder();
    for chunk in whole {
        for (max, x) in lanes.iter_mut().zip(chunk) {
            *max = if *x > *max { *x } else { *max };
        }
    }
    rest.iter().chain(&lanes).fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max })
}

/// Replaces each element by `e^(x - max)` and returns the sum, in the order of [`super::lane_sum_of`].
#[inline(always)]
fn exp_and_sum(x: &mut [f32], max: f32) -> f32 {
    x.iter_mut().for_each(|x| *x = exp(*x - max));
    super::lane_sum_of(x, |x| x)
}

#[cfg(test)]
mod tests {
    use super::row;

    #[test]
    fn gradients_are_normal_numbers_or_zero() {
        let loss_scale = 1.0 / 2048.0;
        let mut logits = [0.0, -86.0, -60.0];
        row(0.0, Some(loss_scale), &mut logits, 0);
        assert_eq!(logits[1], 0.0, "e^-86 / 2048 is subnormal");
        assert!(logits[2].is_normal() && logits[2] > 0.0);
        let mut logits = [f32::NAN, -86.0];
        row(0.0, Some(loss_scale), &mut logits, 0);
        assert!(logits.iter().all(|gradient| gradient.is_nan()));
    }
}
