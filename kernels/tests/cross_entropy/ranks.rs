//! Classes cut over ranks: the parts against the reference of the whole, what ranks must agree on, and the
//! refusals.

use tisserand_kernels::Result;
use tisserand_kernels::ops::cross_entropy::linear_forward;

use super::meeting::{Case, rows};
use super::*;

fn bits_of(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Cut evenly or not, with ranks of padding alone, over several chunks of tokens.
fn cuts() -> impl Iterator<Item = (CrossEntropyShape, usize)> {
    let sizes = [(1, 1, 1), (5, 2, 3), (23, 5, 4), (67, 37, 17), (150, 16_411, 7), (517, 4_099, 3)];
    let shapes = sizes.into_iter().map(|(tokens, vocab_size, hidden_size)| CrossEntropyShape {
        tokens,
        vocab_size,
        hidden_size,
    });
    shapes.flat_map(|shape| [1, 2, 3, 4].map(move |ranks| (shape, ranks)))
}

#[test]
fn the_parts_of_ranks_equal_the_reference_of_the_whole() {
    for (shape, ranks) in cuts() {
        let CrossEntropyShape { tokens, vocab_size, hidden_size } = shape;
        let inputs = inputs(shape);
        let Inputs { x, weight, labels, loss_scale } = &inputs;
        for (dtypes, z_loss) in
            [((F32, F32), 0.0), ((F32, F32), 0.125), ((Bf16, Bf16), 0.125), ((Bf16, F32), 0.0)]
        {
            let name = format!("{shape:?} over {ranks}, {dtypes:?} z_loss {z_loss}");
            let want =
                reference::linear_forward_backward(shape, f64::from(z_loss), x, weight, labels, *loss_scale);
            let parts = Case { shape, inputs: &inputs, dtypes, z_loss, threads: 1 }.over(ranks);

            // Scales as in `losses_and_gradients_equal_the_reference`.
            let logits_scale = 4.0 * (hidden_size as f64).sqrt();
            let z_scale = 1.0 + 40.0 * f64::from(z_loss);
            let bound = tolerance(F32, hidden_size + vocab_size);
            assert_close(
                &format!("losses {name}"),
                &parts[0].losses,
                &want.losses,
                logits_scale * z_scale,
                bound,
            );
            for part in &parts {
                assert_eq!(bits_of(&part.losses), bits_of(&parts[0].losses), "losses {name}");
                assert_eq!(bits_of(&part.evaluated), bits_of(&parts[0].losses), "evaluated {name}");
            }
            let gradient_scale = logits_scale * loss_scale * z_scale;
            let mut dx = vec![0.0_f32; tokens * hidden_size];
            for part in &parts {
                dx.iter_mut().zip(&part.dx).for_each(|(sum, term)| *sum += term);
            }
            let bound = tolerance(dtypes.0, hidden_size + vocab_size);
            assert_close(&format!("dx {name}"), &dx, &want.dx, gradient_scale, bound);
            let dweight: Vec<f32> = parts.iter().flat_map(|part| part.dweight.clone()).collect();
            let (classes, padding) = dweight.split_at(vocab_size * hidden_size);
            let plus: Vec<f64> = want.dweight.iter().map(|d| d + 0.5).collect();
            let bound = tolerance(F32, hidden_size + vocab_size + tokens);
            assert_close(&format!("dweight {name}"), classes, &plus, gradient_scale, bound);
            assert!(padding.iter().all(|d| *d == 0.5), "padding {name}");
            let rows = rows(vocab_size, ranks);
            let chunks =
                tokens.div_ceil(CrossEntropyShape { vocab_size: rows, ..shape }.chunk_tokens(Cpu::CAPS));
            let calls = if ranks == 1 { 0 } else { chunks };
            assert!(parts.iter().all(|part| (part.maxima, part.sums) == (calls, calls)), "calls {name}");
        }
    }
}

/// The first of two ranks, of which the other holds padding alone.
struct FirstOfTwo;

impl AcrossRanks<Cpu> for FirstOfTwo {
    type Error = KernelError;

    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        2
    }

    fn max(&mut self, values: Block<Cpu>) -> Result<Block<Cpu>> {
        Ok(values)
    }

    fn sum(&mut self, values: Block<Cpu>) -> Result<Block<Cpu>> {
        Ok(values)
    }
}

#[test]
fn the_phases_have_the_bits_of_the_fused_kernel() {
    let ctx = context(2);
    for (shape, dtype) in shapes().flat_map(|s| [F32, Bf16].map(move |d| (s, d))) {
        let inputs = inputs(shape);
        let fused = run(&ctx, shape, &inputs, (dtype, dtype), 0.125, 0.5);
        let phases = run_across(&ctx, &mut FirstOfTwo, shape, &inputs, (dtype, dtype), 0.125, 0.5);
        for (fused, phases) in fused.iter().zip(&phases) {
            assert!(bits(&ctx, fused) == bits(&ctx, phases), "{shape:?} {dtype}");
        }
    }
}

#[test]
fn bits_of_ranks_do_not_depend_on_the_number_of_threads() {
    let shape = CrossEntropyShape { tokens: 300, vocab_size: 16_411, hidden_size: 13 };
    let inputs = inputs(shape);
    let run = |threads| {
        let case = Case { shape, inputs: &inputs, dtypes: (F32, F32), z_loss: 0.125, threads };
        let parts = case.over(3).into_iter();
        parts.map(|p| [p.losses, p.dx, p.dweight].map(|values| bits_of(&values))).collect::<Vec<_>>()
    };
    let one = run(1);
    for threads in [2, 3] {
        assert!(run(threads) == one, "{threads} threads");
    }
}

#[test]
fn a_logit_that_is_not_a_number_shows_in_the_loss_of_every_rank() {
    let shape = CrossEntropyShape { tokens: 2, vocab_size: 33, hidden_size: 1 };
    let mut inputs = inputs(shape);
    inputs.weight[20] = f64::NAN;
    for part in (Case { shape, inputs: &inputs, dtypes: (F32, F32), z_loss: 0.0, threads: 1 }).over(3) {
        assert!(part.losses[..2].iter().all(|loss| loss.is_nan()), "{:?}", part.losses);
    }
}

#[test]
fn large_logits_of_several_ranks_do_not_overflow() {
    let shape = CrossEntropyShape { tokens: 3, vocab_size: 4, hidden_size: 1 };
    let inputs = Inputs {
        x: vec![1.0e4, -1.0e4, 1.0e4],
        weight: vec![1.0, -1.0, 0.5, 0.0],
        labels: vec![0, 0, 1],
        loss_scale: 1.0,
    };
    let case = Case { shape, inputs: &inputs, dtypes: (F32, F32), z_loss: 0.0, threads: 1 };
    let parts = case.over(3);
    for part in &parts {
        assert_eq!(part.losses, [0.0, 20_000.0, 20_000.0, 0.0, 0.0, 0.0]);
    }
    let dweight: Vec<f32> = parts.iter().flat_map(|part| part.dweight.clone()).collect();
    assert_eq!(dweight, [2.0e4 + 0.5, -2.0e4 + 0.5, 0.5, 0.5, 0.5, 0.5]);
}

#[test]
fn ranks_that_cannot_hold_all_classes_are_refused() {
    let ctx = context(1);
    let floats = upload_as(&ctx, F32, &[0.0; 6]);
    let (labels, mut losses) = (upload(&ctx, &[0_i32; 1]), poisoned(&ctx, F32, [2]));
    let mut refuse = |vocab_size| {
        let (x, weight, losses) = (floats.range(0, [1, 3]), floats.range(0, [2, 3]), losses.view_mut([2, 1]));
        let (params, labels) = (CrossEntropyParams { z_loss: 0.0 }, labels.view([1]));
        linear_forward(&ctx, &params, vocab_size, &mut FirstOfTwo, x, weight, labels, losses)
    };
    refuse(4).unwrap();
    assert_eq!(
        refuse(5).unwrap_err().to_string(),
        "cross_entropy::linear_forward: rank 0 of 2 with 2 rows each cannot hold 5 classes"
    );
}

#[test]
#[should_panic(expected = "label 4 is neither -100 nor below vocab_size 4")]
fn a_label_of_no_rank_is_a_broken_invariant() {
    let ctx = context(1);
    let shape = CrossEntropyShape { tokens: 1, vocab_size: 4, hidden_size: 1 };
    let inputs = Inputs { labels: vec![4], ..inputs(shape) };
    run_across(&ctx, &mut FirstOfTwo, shape, &inputs, (F32, F32), 0.0, 0.0);
}

/// A connection that breaks.
struct Broken;

/// Not an error of kernels.
#[derive(Debug)]
enum BrokenError {
    Connection,
    Kernel,
}

impl From<KernelError> for BrokenError {
    fn from(_: KernelError) -> Self {
        BrokenError::Kernel
    }
}

impl AcrossRanks<Cpu> for Broken {
    type Error = BrokenError;

    fn rank(&self) -> usize {
        1
    }

    fn size(&self) -> usize {
        2
    }

    fn max(&mut self, _: Block<Cpu>) -> Result<Block<Cpu>, BrokenError> {
        Err(BrokenError::Connection)
    }

    fn sum(&mut self, _: Block<Cpu>) -> Result<Block<Cpu>, BrokenError> {
        unreachable!("the maximum failed")
    }
}

#[test]
fn what_a_collective_meets_reaches_the_caller_as_it_is() {
    let ctx = context(1);
    let floats = upload_as(&ctx, F32, &[0.0; 6]);
    let (labels, mut losses) = (upload(&ctx, &[0_i32; 1]), poisoned(&ctx, F32, [2]));
    let mut call = |vocab_size| {
        let (x, weight, losses) = (floats.range(0, [1, 3]), floats.range(0, [2, 3]), losses.view_mut([2, 1]));
        let (params, labels) = (CrossEntropyParams { z_loss: 0.0 }, labels.view([1]));
        // As an object, which is how a layer may hold it.
        let across: &mut dyn AcrossRanks<Cpu, Error = BrokenError> = &mut Broken;
        linear_forward(&ctx, &params, vocab_size, across, x, weight, labels, losses)
    };
    assert!(matches!(call(4), Err(BrokenError::Connection)));
    assert!(matches!(call(5), Err(BrokenError::Kernel)));
}
