//! The definition of attention in f64: every pair of a query and a key, one after the other.

use std::ops::Range;

use super::AttentionShape;

/// Returns (out, logsumexp).
pub fn forward(
    shape: AttentionShape,
    q: &[f64],
    k: &[f64],
    v: &[f64],
    cu_seqlens_q: &[u32],
    cu_seqlens_k: &[u32],
) -> (Vec<f64>, Vec<f64>) {
    let tokens = q.len() / (shape.num_heads * shape.head_dim);
    let mut out = vec![0.0; q.len()];
    let mut logsumexp = vec![f64::NEG_INFINITY; shape.num_heads * tokens];
    for_each_query(shape, cu_seqlens_q, cu_seqlens_k, |token, head, keys| {
        let (q_at, k_at) = (query_range(shape, token, head), |j| key_range(shape, j, head));
        let logits: Vec<f64> = keys.clone().map(|j| logit(shape, &q[q_at.clone()], &k[k_at(j)])).collect();
        let max = logits.iter().fold(f64::NEG_INFINITY, |max, &logit| max.max(logit));
        let sum: f64 = logits.iter().map(|logit| (logit - max).exp()).sum();
        for (j, logit) in keys.zip(logits) {
            let probability = (logit - max).exp() / sum;
            for (out, v) in out[q_at.clone()].iter_mut().zip(&v[k_at(j)]) {
                *out += probability * v;
            }
        }
        logsumexp[head * tokens + token] = max + sum.ln();
    });
    (out, logsumexp)
}

/// Returns (dq, dk, dv), from the inputs of [`forward`] and its results.
pub fn backward(
    shape: AttentionShape,
    q: &[f64],
    k: &[f64],
    v: &[f64],
    cu_seqlens_q: &[u32],
    cu_seqlens_k: &[u32],
    out: &[f64],
    logsumexp: &[f64],
    dout: &[f64],
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let tokens = q.len() / (shape.num_heads * shape.head_dim);
    let scale = 1.0 / (shape.head_dim as f64).sqrt();
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    for_each_query(shape, cu_seqlens_q, cu_seqlens_k, |token, head, keys| {
        let q_at = query_range(shape, token, head);
        let (q, dout, dq) = (&q[q_at.clone()], &dout[q_at.clone()], &mut dq[q_at.clone()]);
        let delta = dot(dout, &out[q_at]);
        for j in keys {
            let at = key_range(shape, j, head);
            let probability = (logit(shape, q, &k[at.clone()]) - logsumexp[head * tokens + token]).exp();
            let dlogit = probability * (dot(dout, &v[at.clone()]) - delta);
            for d in 0..shape.head_dim {
                dv[at.start + d] += probability * dout[d];
                dk[at.start + d] += scale * dlogit * q[d];
                dq[d] += scale * dlogit * k[at.start + d];
            }
        }
    });
    (dq, dk, dv)
}

/// Calls `each(token, head, keys)` for every query that sees a key; `keys` are rows of `k`.
fn for_each_query(
    shape: AttentionShape,
    cu_seqlens_q: &[u32],
    cu_seqlens_k: &[u32],
    mut each: impl FnMut(usize, usize, Range<usize>),
) {
    for (q, k) in cu_seqlens_q.windows(2).zip(cu_seqlens_k.windows(2)) {
        let (queries, keys) = (q[0] as usize..q[1] as usize, k[0] as usize..k[1] as usize);
        for i in 0..queries.len() {
            // One past the last visible key of the document; not positive if there is none.
            let end = i as i64 + 1 + keys.len() as i64 - queries.len() as i64;
            let begin = shape.window.map_or(0, |window| (end - window as i64).max(0));
            for head in 0..shape.num_heads {
                if begin < end {
                    let visible = keys.start + begin as usize..keys.start + end as usize;
                    each(queries.start + i, head, visible);
                }
            }
        }
    }
}

fn query_range(shape: AttentionShape, token: usize, head: usize) -> Range<usize> {
    let start = (token * shape.num_heads + head) * shape.head_dim;
    start..start + shape.head_dim
}

fn key_range(shape: AttentionShape, token: usize, head: usize) -> Range<usize> {
    let start = (token * shape.num_kv_heads + head / shape.group()) * shape.head_dim;
    start..start + shape.head_dim
}

fn logit(shape: AttentionShape, q: &[f64], k: &[f64]) -> f64 {
    dot(q, k) / (shape.head_dim as f64).sqrt()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check_gradient;
    use crate::testing::normal_f64;

    #[test]
    fn backward_equals_central_differences() {
        let (cu_q, cu_k) = ([0, 3, 3, 5], [0, 4, 4, 6]);
        for window in [None, Some(2)] {
            let shape =
                AttentionShape { num_heads: 4, num_kv_heads: 2, head_dim: 6, window, longest: usize::MAX };
            let (q, dout) = (normal_f64(1, 5 * 24), normal_f64(2, 5 * 24));
            let (k, v) = (normal_f64(3, 6 * 12), normal_f64(4, 6 * 12));
            let loss = |q: &[f64], k: &[f64], v: &[f64]| dot(&forward(shape, q, k, v, &cu_q, &cu_k).0, &dout);
            let (out, logsumexp) = forward(shape, &q, &k, &v, &cu_q, &cu_k);
            let (dq, dk, dv) = backward(shape, &q, &k, &v, &cu_q, &cu_k, &out, &logsumexp, &dout);
            check_gradient("dq", &q, &dq, |q| loss(q, &k, &v));
            check_gradient("dk", &k, &dk, |k| loss(&q, k, &v));
            check_gradient("dv", &v, &dv, |v| loss(&q, &k, v));
        }
    }

    #[test]
    fn a_window_of_one_copies_the_own_value() {
        let shape = AttentionShape {
            num_heads: 1,
            num_kv_heads: 1,
            head_dim: 2,
            window: Some(1),
            longest: usize::MAX,
        };
        let (q, k, v) = (normal_f64(1, 6), normal_f64(2, 6), normal_f64(3, 6));
        let (out, _) = forward(shape, &q, &k, &v, &[0, 3], &[0, 3]);
        assert_eq!(out, v);
    }
}
