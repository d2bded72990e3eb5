//! Projection and cross-entropy on the CPU device: against the reference, over several chunks, with
//! ignored labels, large logits and z-loss, for every thread count; classes cut over ranks in [`ranks`].

mod meeting;
mod ranks;

use tisserand_kernels::ops::cross_entropy::{
    self, AcrossRanks, CrossEntropyParams, CrossEntropyShape, IGNORED, Whole, reference,
};
use tisserand_kernels::testing::{
    assert_close, bits, download, normal_f64, poisoned, tolerance, upload, upload_as,
};
use tisserand_kernels::{Block, Class, Context, Cpu, DType, KernelError};

use DType::{Bf16, F32};

fn context(threads: usize) -> Context<Cpu> {
    Context::new(Cpu::new(threads).unwrap(), 128 << 20).unwrap()
}

/// The last two have several chunks of tokens, the last of them short.
fn shapes() -> impl Iterator<Item = CrossEntropyShape> {
    let sizes = [(1, 1, 1), (1, 17, 5), (5, 2, 3), (67, 131, 17), (150, 16_411, 7), (517, 4_099, 3)];
    sizes.into_iter().map(|(tokens, vocab_size, hidden_size)| CrossEntropyShape {
        tokens,
        vocab_size,
        hidden_size,
    })
}

/// What one call is given; every third label is ignored.
struct Inputs {
    x: Vec<f64>,
    weight: Vec<f64>,
    labels: Vec<i32>,
    loss_scale: f64,
}

fn inputs(shape: CrossEntropyShape) -> Inputs {
    let CrossEntropyShape { tokens, vocab_size, hidden_size } = shape;
    let label = |t: usize| if t % 3 == 2 { IGNORED } else { (t * t % vocab_size) as i32 };
    Inputs {
        x: normal_f64(1, tokens * hidden_size),
        weight: normal_f64(2, vocab_size * hidden_size),
        labels: (0..tokens).map(label).collect(),
        loss_scale: 0.5,
    }
}

/// losses, dx, dweight; dweight starts from `start`.
fn run(
    ctx: &Context<Cpu>,
    shape: CrossEntropyShape,
    inputs: &Inputs,
    dtypes: (DType, DType),
    z_loss: f32,
    start: f64,
) -> [Block<Cpu>; 3] {
    run_across(ctx, &mut Whole, shape, inputs, dtypes, z_loss, start)
}

/// [`run`] as one of the ranks that hold the classes; this one has all of them.
fn run_across(
    ctx: &Context<Cpu>,
    across: &mut impl AcrossRanks<Cpu, Error = KernelError>,
    shape: CrossEntropyShape,
    inputs: &Inputs,
    (dtype, weight_dtype): (DType, DType),
    z_loss: f32,
    start: f64,
) -> [Block<Cpu>; 3] {
    let CrossEntropyShape { tokens, vocab_size, hidden_size } = shape;
    let (x, weight) = (upload_as(ctx, dtype, &inputs.x), upload_as(ctx, weight_dtype, &inputs.weight));
    let (labels, scale) = (upload(ctx, &inputs.labels), upload(ctx, &[inputs.loss_scale as f32]));
    let mut losses = poisoned(ctx, F32, [2 * tokens]);
    let mut dx = poisoned(ctx, dtype, [tokens, hidden_size]);
    let mut dweight = upload_as(ctx, F32, &vec![start; vocab_size * hidden_size]);
    cross_entropy::linear_forward_backward(
        ctx,
        &CrossEntropyParams { z_loss },
        vocab_size,
        across,
        x.view([tokens, hidden_size]),
        weight.view([vocab_size, hidden_size]),
        labels.view([tokens]),
        scale.view([1]),
        losses.view_mut([2, tokens]),
        dx.view_mut([tokens, hidden_size]),
        dweight.view_mut([vocab_size, hidden_size]),
    )
    .unwrap();
    [losses, dx, dweight]
}

#[test]
fn losses_and_gradients_equal_the_reference() {
    let ctx = context(2);
    for shape in shapes() {
        let CrossEntropyShape { tokens, vocab_size, hidden_size } = shape;
        let inputs = inputs(shape);
        let Inputs { x, weight, labels, loss_scale } = &inputs;
        for (dtypes, z_loss) in
            [((F32, F32), 0.0), ((F32, F32), 0.125), ((Bf16, Bf16), 0.125), ((Bf16, F32), 0.0)]
        {
            let name = format!("{shape:?} {dtypes:?} z_loss {z_loss}");
            let want =
                reference::linear_forward_backward(shape, f64::from(z_loss), x, weight, labels, *loss_scale);
            let [losses, dx, dweight] = run(&ctx, shape, &inputs, dtypes, z_loss, 0.5);
            // An error of the logits, sums of products of numbers near 1, passes on to everything.
            let logits_scale = 4.0 * (hidden_size as f64).sqrt();
            let f32_bound = tolerance(F32, hidden_size + vocab_size);
            let losses_scale = logits_scale * (1.0 + f64::from(z_loss) * 40.0);
            assert_close(
                &format!("losses {name}"),
                &download(&ctx, &losses),
                &want.losses,
                losses_scale,
                f32_bound,
            );
            let gradient_scale = logits_scale * loss_scale * (1.0 + 40.0 * f64::from(z_loss));
            let bound = tolerance(dtypes.0, hidden_size + vocab_size);
            assert_close(&format!("dx {name}"), &download(&ctx, &dx), &want.dx, gradient_scale, bound);
            let plus: Vec<f64> = want.dweight.iter().map(|d| d + 0.5).collect();
            let bound = tolerance(F32, hidden_size + vocab_size + tokens);
            assert_close(&format!("dweight {name}"), &download(&ctx, &dweight), &plus, gradient_scale, bound);
        }
    }
}

#[test]
fn evaluation_gives_the_losses_of_training() {
    let ctx = context(2);
    for (shape, dtype) in shapes().flat_map(|s| [F32, Bf16].map(move |d| (s, d))) {
        let CrossEntropyShape { tokens, vocab_size, hidden_size } = shape;
        let inputs = inputs(shape);
        let trained = &run(&ctx, shape, &inputs, (dtype, dtype), 0.125, 0.0)[0];
        let (x, weight) = (upload_as(&ctx, dtype, &inputs.x), upload_as(&ctx, dtype, &inputs.weight));
        let labels = upload(&ctx, &inputs.labels);
        let mut losses = poisoned(&ctx, F32, [2 * tokens]);
        cross_entropy::linear_forward(
            &ctx,
            &CrossEntropyParams { z_loss: 0.125 },
            vocab_size,
            &mut Whole,
            x.view([tokens, hidden_size]),
            weight.view([vocab_size, hidden_size]),
            labels.view([tokens]),
            losses.view_mut([2, tokens]),
        )
        .unwrap();
        assert_eq!(bits(&ctx, &losses), bits(&ctx, trained), "{shape:?} {dtype}");
    }
}

#[test]
fn a_batch_of_ignored_labels_has_no_loss_and_no_gradient() {
    let ctx = context(2);
    let shape = CrossEntropyShape { tokens: 70, vocab_size: 33, hidden_size: 9 };
    let inputs = Inputs { labels: vec![IGNORED; 70], ..inputs(shape) };
    let [losses, dx, dweight] = run(&ctx, shape, &inputs, (F32, F32), 0.125, 0.5);
    assert_eq!(download(&ctx, &losses), vec![0.0; 140]);
    assert_eq!(download(&ctx, &dx), vec![0.0; 70 * 9]);
    assert_eq!(download(&ctx, &dweight), vec![0.5; 33 * 9]);
}

#[test]
fn large_logits_do_not_overflow() {
    let ctx = context(2);
    let shape = CrossEntropyShape { tokens: 3, vocab_size: 4, hidden_size: 1 };
    let inputs = Inputs {
        x: vec![1.0e4, -1.0e4, 1.0e4],
        weight: vec![1.0, -1.0, 0.5, 0.0],
        labels: vec![0, 0, 1],
        loss_scale: 1.0,
    };
    let [losses, dx, dweight] = run(&ctx, shape, &inputs, (F32, F32), 0.0, 0.0);
    assert_eq!(download(&ctx, &losses), [0.0, 20_000.0, 20_000.0, 0.0, 0.0, 0.0]);
    assert_eq!(download(&ctx, &dx), [0.0, -2.0, 2.0]);
    assert_eq!(download(&ctx, &dweight), [2.0e4, -2.0e4, 0.0, 0.0]);
}

#[test]
fn a_logit_that_is_not_a_number_shows_in_the_loss() {
    let ctx = context(1);
    let shape = CrossEntropyShape { tokens: 2, vocab_size: 33, hidden_size: 1 };
    let mut inputs = inputs(shape);
    inputs.x[1] = f64::NAN;
    let [losses, _, _] = run(&ctx, shape, &inputs, (F32, F32), 0.0, 0.0);
    let losses = download(&ctx, &losses);
    assert!(losses[0].is_finite() && losses[1].is_nan(), "{losses:?}");
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let shape = CrossEntropyShape { tokens: 300, vocab_size: 8_209, hidden_size: 13 };
    let inputs = inputs(shape);
    let run = |threads| {
        let ctx = context(threads);
        run(&ctx, shape, &inputs, (F32, F32), 0.125, 0.5).map(|block| bits(&ctx, &block))
    };
    let one = run(1);
    for threads in [2, 3, 8] {
        assert!(run(threads) == one, "{threads} threads");
    }
}

#[test]
fn workspace_holds_one_chunk_of_logits() {
    let shape = CrossEntropyShape { tokens: 2048, vocab_size: 4096, hidden_size: 8 };
    let ctx = context(1);
    run(&ctx, shape, &inputs(shape), (F32, F32), 0.0, 0.0);
    let logits_bytes = 4 * shape.tokens * shape.vocab_size;
    let workspace_bytes = ctx.arena.peak().of(Class::Workspace);
    assert!(workspace_bytes <= logits_bytes / 4, "{workspace_bytes} of {logits_bytes} bytes");
}

#[test]
fn wrong_shapes_and_dtypes_are_refused_by_name() {
    let ctx = context(1);
    let floats = upload_as(&ctx, F32, &[0.0; 12]);
    let labels = upload(&ctx, &[0_i32; 4]);
    let mut target = poisoned(&ctx, F32, [12]);
    let params = CrossEntropyParams { z_loss: 0.0 };
    let (x, weight) = (floats.range(0, [2, 3]), floats.range(0, [4, 3]));
    let mut refuse = |labels, losses: [usize; 2]| {
        let losses = target.range_mut(0, losses);
        cross_entropy::linear_forward(&ctx, &params, 4, &mut Whole, x, weight, labels, losses)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refuse(labels.range(0, [3]), [2, 2]),
        "cross_entropy::linear_forward: `labels` has shape [3], expected [2]"
    );
    assert_eq!(
        refuse(floats.range(0, [2]), [2, 2]),
        "cross_entropy::linear_forward: `labels` has dtype f32, expected i32"
    );
    assert_eq!(
        refuse(labels.range(0, [2]), [1, 2]),
        "cross_entropy::linear_forward: `losses` has shape [1, 2], expected [2, 2]"
    );
    let [mut losses, mut dx, mut dweight] = [4, 6, 12].map(|len| poisoned(&ctx, F32, [len]));
    let message = cross_entropy::linear_forward_backward(
        &ctx,
        &params,
        4,
        &mut Whole,
        x,
        weight,
        labels.range(0, [2]),
        floats.range(0, [2]),
        losses.view_mut([2, 2]),
        dx.view_mut([2, 3]),
        dweight.view_mut([4, 3]),
    )
    .unwrap_err();
    assert_eq!(
        message.to_string(),
        "cross_entropy::linear_forward_backward: `loss_scale` has shape [2], expected [1]"
    );
}

#[test]
#[should_panic(expected = "label 4 is neither -100 nor below vocab_size 4")]
fn a_label_outside_the_vocabulary_is_a_broken_invariant() {
    let ctx = context(1);
    let shape = CrossEntropyShape { tokens: 1, vocab_size: 4, hidden_size: 1 };
    let inputs = Inputs { labels: vec![4], ..inputs(shape) };
    run(&ctx, shape, &inputs, (F32, F32), 0.0, 0.0);
}
