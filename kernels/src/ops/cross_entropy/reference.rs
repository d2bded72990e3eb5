//! The definition in f64, one token after the other. It knows no ranks: theirs must sum to it.

use super::{CrossEntropyShape, IGNORED};

/// What the op computes.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// [2, tokens]: cross-entropies, then z-losses.
    pub losses: Vec<f64>,
    /// [tokens, hidden_size]
    pub dx: Vec<f64>,
    /// [vocab_size, hidden_size], from zero.
    pub dweight: Vec<f64>,
}

/// Losses and gradients.
pub fn linear_forward_backward(
    shape: CrossEntropyShape,
    z_loss: f64,
    x: &[f64],
    weight: &[f64],
    labels: &[i32],
    loss_scale: f64,
) -> Outputs {
    let CrossEntropyShape { tokens, vocab_size, hidden_size } = shape;
    let mut losses = vec![0.0; 2 * tokens];
    let (mut dx, mut dweight) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
    for t in 0..tokens {
        if labels[t] == IGNORED {
            continue;
        }
        let label = labels[t] as usize;
        let hidden = t * hidden_size..(t + 1) * hidden_size;
        let (x, dx) = (&x[hidden.clone()], &mut dx[hidden]);
        let row = |v: usize| v * hidden_size..(v + 1) * hidden_size;
        let dot = |v: usize| x.iter().zip(&weight[row(v)]).map(|(x, w)| x * w).sum::<f64>();
        let logits: Vec<f64> = (0..vocab_size).map(dot).collect();
        let max = logits.iter().fold(f64::NEG_INFINITY, |max, &l| max.max(l));
        let lse = max + logits.iter().map(|l| (l - max).exp()).sum::<f64>().ln();
        losses[t] = lse - logits[label];
        losses[tokens + t] = z_loss * lse * lse;
        for v in 0..vocab_size {
            let target = if v == label { 1.0 } else { 0.0 };
            let dlogit = loss_scale * ((logits[v] - lse).exp() * (1.0 + 2.0 * z_loss * lse) - target);
            for h in 0..hidden_size {
                dx[h] += dlogit * weight[v * hidden_size + h];
                dweight[v * hidden_size + h] += dlogit * x[h];
            }
        }
    }
    Outputs { losses, dx, dweight }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check_gradient;
    use crate::testing::normal_f64;

    #[test]
    fn gradients_equal_central_differences() {
        let shape = CrossEntropyShape { tokens: 4, vocab_size: 5, hidden_size: 3 };
        let (x, weight) = (normal_f64(1, 12), normal_f64(2, 15));
        let (labels, scale, z_loss) = ([4, IGNORED, 0, 2], 0.25, 0.1);
        let run =
            |x: &[f64], weight: &[f64]| linear_forward_backward(shape, z_loss, x, weight, &labels, scale);
        let loss = |x: &[f64], weight: &[f64]| scale * run(x, weight).losses.iter().sum::<f64>();
        let outputs = run(&x, &weight);
        check_gradient("dx", &x, &outputs.dx, |x| loss(x, &weight));
        check_gradient("dweight", &weight, &outputs.dweight, |weight| loss(&x, weight));
    }
}
