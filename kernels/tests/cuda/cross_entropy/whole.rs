//! The op of a bf16 model, whose logits' gradient is rounded before its two products, against the definition in f64.

use tisserand_kernels::ops::cross_entropy::{
    self, CrossEntropyParams, CrossEntropyShape, IGNORED, Whole, reference,
};
use tisserand_kernels::testing::{
    assert_close, download, normal_f64, poisoned, tolerance, upload, upload_as,
};
use tisserand_kernels::{Context, DType};

use crate::support::{Dev, in_one_setting};

use DType::{Bf16, F32};

const LOSS_SCALE: f64 = 0.5;
const Z_LOSS: f32 = 0.125;

fn assert_op(ctx: &Context<Dev>, shape: CrossEntropyShape) {
    let CrossEntropyShape { tokens, vocab_size, hidden_size } = shape;
    let (x, weight) = (normal_f64(1, tokens * hidden_size), normal_f64(2, vocab_size * hidden_size));
    let label = |t: usize| if t % 3 == 2 { IGNORED } else { (t * t % vocab_size) as i32 };
    let labels: Vec<i32> = (0..tokens).map(label).collect();
    let want = reference::linear_forward_backward(shape, f64::from(Z_LOSS), &x, &weight, &labels, LOSS_SCALE);

    let (x, weight) = (upload_as(ctx, Bf16, &x), upload_as(ctx, Bf16, &weight));
    let (labels, scale) = (upload(ctx, &labels), upload(ctx, &[LOSS_SCALE as f32]));
    let mut losses = poisoned(ctx, F32, [2 * tokens]);
    let mut dx = poisoned(ctx, Bf16, [tokens, hidden_size]);
    let mut dweight = upload_as(ctx, F32, &vec![0.0; vocab_size * hidden_size]);
    cross_entropy::linear_forward_backward(
        ctx,
        &CrossEntropyParams { z_loss: Z_LOSS },
        vocab_size,
        &mut Whole,
        x.view([tokens, hidden_size]),
        weight.view([vocab_size, hidden_size]),
        labels.view([tokens]),
        scale.view([1]),
        losses.view_mut([2, tokens]),
        dx.view_mut([tokens, hidden_size]),
        dweight.view_mut([vocab_size, hidden_size]),
    )
    .unwrap();

    // As on the CPU device (tests/cross_entropy), with the rounding of each gradient of a logit in both products.
    let logits_scale = 4.0 * (hidden_size as f64).sqrt() * (1.0 + 40.0 * f64::from(Z_LOSS));
    let close = |what: &str, got: &[f32], want: &[f64], scale, dtype, terms| {
        assert_close(&format!("{what} {shape:?}"), got, want, scale, tolerance(dtype, terms));
    };
    let (terms, scale) = (hidden_size + vocab_size + tokens, logits_scale * LOSS_SCALE);
    close("losses", &download(ctx, &losses), &want.losses, logits_scale, F32, terms);
    close("dx", &download(ctx, &dx), &want.dx, scale, Bf16, terms);
    close("dweight", &download(ctx, &dweight), &want.dweight, scale, Bf16, terms);
}

/// Rows of whole 16 bytes, and others.
#[test]
fn losses_and_gradients_of_a_bf16_model_equal_the_reference() {
    in_one_setting(|ctx| {
        for (tokens, vocab_size, hidden_size) in [(1, 8, 8), (67, 136, 24), (35, 131, 17)] {
            assert_op(ctx, CrossEntropyShape { tokens, vocab_size, hidden_size });
        }
    });
}
