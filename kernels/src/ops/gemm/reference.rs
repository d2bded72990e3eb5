//! The definition in f64, one sum after the other.

use super::{GemmShape, Layout};

/// Returns `c` [m, n].
pub fn product(layout: Layout, shape: GemmShape, a: &[f64], b: &[f64]) -> Vec<f64> {
    let GemmShape { m, n, k } = shape;
    let mut c = Vec::with_capacity(m * n);
    for row in 0..m {
        for column in 0..n {
            let term = |i: usize| match layout {
                Layout::Nt => a[row * k + i] * b[column * k + i],
                Layout::Nn => a[row * k + i] * b[i * n + column],
                Layout::Tn => a[i * m + row] * b[i * n + column],
            };
            c.push((0..k).map(term).sum());
        }
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check_gradient;
    use crate::testing::normal_f64;

    #[test]
    fn backward_products_equal_central_differences_of_the_forward_product() {
        let (tokens, outputs, inputs) = (3, 4, 5);
        let (x, weight) = (normal_f64(1, tokens * inputs), normal_f64(2, outputs * inputs));
        let dout = normal_f64(3, tokens * outputs);
        let loss = |x: &[f64], weight: &[f64]| -> f64 {
            let shape = GemmShape { m: tokens, n: outputs, k: inputs };
            product(Layout::Nt, shape, x, weight).iter().zip(&dout).map(|(y, d)| y * d).sum()
        };
        let dx = product(Layout::Nn, GemmShape { m: tokens, n: inputs, k: outputs }, &dout, &weight);
        let dweight = product(Layout::Tn, GemmShape { m: outputs, n: inputs, k: tokens }, &dout, &x);
        check_gradient("dx", &x, &dx, |x| loss(x, &weight));
        check_gradient("dweight", &weight, &dweight, |weight| loss(&x, weight));
    }
}
