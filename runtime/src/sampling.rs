//! Choosing the next token from logits.

use tisserand_kernels::ops::philox;

/// How a token is chosen.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: f64,
    /// Only the k likeliest tokens; 0 for all.
    pub top_k: usize,
    /// Only the likeliest tokens whose probabilities reach this sum; 1 for all.
    pub top_p: f64,
    /// Same seed, same text.
    pub seed: u64,
}

/// The token for place `index` of the text. Ties go to the smaller id.
pub fn sample(sampling: &Sampling, logits: &[f32], index: u64) -> u32 {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let logit = |id: u32| f64::from(logits[id as usize]);
    order.sort_by(|&a, &b| logit(b).total_cmp(&logit(a)).then(a.cmp(&b)));
    if sampling.temperature == 0.0 {
        return order[0];
    }
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k);
    }
    let largest = logit(order[0]);
    let mut weights: Vec<f64> =
        order.iter().map(|&id| ((logit(id) - largest) / sampling.temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut kept = 0;
    let mut sum = 0.0;
    while kept < weights.len() && (kept == 0 || sum < sampling.top_p * total) {
        sum += weights[kept];
        kept += 1;
    }
    weights.truncate(kept);
    let mut rest = uniform(sampling.seed, index) * sum;
    for (&id, weight) in order.iter().zip(&weights) {
        rest -= weight;
        if rest < 0.0 {
            return id;
        }
    }
    order[kept - 1]
}

/// A number in [0, 1) for place `index`.
fn uniform(seed: u64, index: u64) -> f64 {
    let counter = [index as u32, (index >> 32) as u32, 0, 0];
    let [low, high, ..] = philox::philox4x32(counter, [seed as u32, (seed >> 32) as u32]);
    (u64::from(high) << 32 | u64::from(low)) as f64 / 2.0_f64.powi(64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 7 };

    fn shares(sampling: Sampling, logits: &[f32]) -> Vec<f64> {
        let mut counts = vec![0_u32; logits.len()];
        for index in 0..20_000 {
            counts[sample(&sampling, logits, index) as usize] += 1;
        }
        counts.iter().map(|count| f64::from(*count) / 20_000.0).collect()
    }

    #[test]
    fn shares_follow_the_softmax() {
        let logits = [0.0, 1.0, 2.0, -1.0];
        let total: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        for (share, logit) in shares(PLAIN, &logits).iter().zip(logits) {
            assert!((share - f64::from(logit).exp() / total).abs() < 0.015);
        }
    }

    #[test]
    fn limits_cut_the_tail() {
        let logits = [0.0, 1.0, 2.0, -1.0];
        assert_eq!(shares(Sampling { top_k: 1, ..PLAIN }, &logits)[2], 1.0);
        assert_eq!(shares(Sampling { top_p: 0.5, ..PLAIN }, &logits)[2], 1.0);
        assert_eq!(shares(Sampling { temperature: 0.0, ..PLAIN }, &logits)[2], 1.0);
        let two = shares(Sampling { top_k: 2, ..PLAIN }, &logits);
        assert_eq!((two[0], two[3]), (0.0, 0.0));
    }
}
