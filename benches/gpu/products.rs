//! Matrix products of linear layers, bf16 with f32 sums.

use tisserand_kernels::ops::{Write, gemm};
use tisserand_kernels::{DType, Device};

use super::inputs::Cases;

/// Extents of a linear layer, and which of its products are measured.
struct Linear {
    tokens: usize,
    inputs: usize,
    outputs: usize,
    backward: bool,
}

/// Squares, and the layers of Llama 3 8B.
const LAYERS: [Linear; 5] = [
    Linear { tokens: 4096, inputs: 4096, outputs: 4096, backward: true },
    Linear { tokens: 8192, inputs: 8192, outputs: 8192, backward: true },
    Linear { tokens: 16_384, inputs: 4096, outputs: 4096, backward: true },
    Linear { tokens: 16_384, inputs: 4096, outputs: 28_672, backward: false },
    Linear { tokens: 16_384, inputs: 14_336, outputs: 4096, backward: false },
];

/// Every product of every layer, and those that end in more than a product.
pub(crate) fn add<D: Device>(cases: &mut Cases<D>) {
    add_fused(cases);
    for Linear { tokens, inputs, outputs, backward } in LAYERS {
        let name = |product: &str| format!("gemm {product} {tokens}x{inputs}->{outputs}");
        let (x_grid, y_grid, w_grid) = ([tokens, inputs], [tokens, outputs], [outputs, inputs]);
        let [x_len, y_len, w_len] = [x_grid, y_grid, w_grid].map(|grid| grid.iter().product::<usize>());
        cases.add(name("forward"), move |inputs| {
            let (x, w) = (inputs.bf16(x_len)?, inputs.bf16(w_len)?);
            let mut y = inputs.room(DType::Bf16, y_len)?;
            Ok(Box::new(move |ctx| {
                gemm::linear_forward(ctx, x.view(x_grid), w.view(w_grid), None, y.view_mut(y_grid))
            }))
        });
        if !backward {
            continue;
        }
        cases.add(name("input-gradient"), move |inputs| {
            let (dy, w) = (inputs.bf16(y_len)?, inputs.bf16(w_len)?);
            let mut dx = inputs.room(DType::Bf16, x_len)?;
            Ok(Box::new(move |ctx| {
                let (dy, w) = (dy.view(y_grid), w.view(w_grid));
                gemm::linear_backward_input(ctx, dy, w, Write::Replace, dx.view_mut(x_grid))
            }))
        });
        cases.add(name("weight-gradient"), move |inputs| {
            let (dy, x) = (inputs.bf16(y_len)?, inputs.bf16(x_len)?);
            let mut dw = inputs.filled(DType::F32, 0.0, w_len)?;
            Ok(Box::new(move |ctx| {
                gemm::linear_backward_weight(ctx, dy.view(y_grid), x.view(x_grid), dw.view_mut(w_grid))
            }))
        });
    }
}

/// The residual's addition, and the activation function, where the sums are.
fn add_fused<D: Device>(cases: &mut Cases<D>) {
    const TOKENS: usize = 16_384;
    const HIDDEN: usize = 4096;
    const INTERMEDIATE: usize = 14_336;
    cases.add("gemm add 16384x4096->4096", |inputs| {
        let (x, w) = (inputs.bf16(TOKENS * HIDDEN)?, inputs.bf16(HIDDEN * HIDDEN)?);
        let residual = inputs.bf16(TOKENS * HIDDEN)?;
        let mut y = inputs.room(DType::Bf16, TOKENS * HIDDEN)?;
        Ok(Box::new(move |ctx| {
            let (x, w) = (x.view([TOKENS, HIDDEN]), w.view([HIDDEN, HIDDEN]));
            gemm::linear_add(ctx, x, w, residual.view([TOKENS, HIDDEN]), y.view_mut([TOKENS, HIDDEN]))
        }))
    });
    cases.add("gemm swiglu 16384x4096->14336", |inputs| {
        let (x, w) = (inputs.bf16(TOKENS * HIDDEN)?, inputs.bf16(2 * INTERMEDIATE * HIDDEN)?);
        let mut gate_up = inputs.room(DType::Bf16, 2 * TOKENS * INTERMEDIATE)?;
        let mut y = inputs.room(DType::Bf16, TOKENS * INTERMEDIATE)?;
        Ok(Box::new(move |ctx| {
            let (x, w) = (x.view([TOKENS, HIDDEN]), w.view([2 * INTERMEDIATE, HIDDEN]));
            let gate_up = gate_up.view_mut([TOKENS, 2 * INTERMEDIATE]);
            gemm::linear_swiglu(ctx, x, w, gate_up, y.view_mut([TOKENS, INTERMEDIATE]))
        }))
    });
}
