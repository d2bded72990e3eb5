//! Elementwise ops: the bits of the CPU device, at odd sizes, from odd addresses, for all pairs of dtypes.

use tisserand_kernels::ops::elementwise;
use tisserand_kernels::testing::{bits, normal_f64, upload_as};
use tisserand_kernels::{Block, Context, DType, Device};

use crate::support::{FLOATS, cpu, for_each_setting, with_warps_of_64};

/// Around the vectors of a thread, the elements of a block, and beyond.
const LENGTHS: [usize; 10] = [0, 1, 3, 7, 8, 255, 256, 1025, 4097, 70_001];

/// Elements before the first one: views that are aligned, that are not, and that are aligned apart.
const STARTS: [[usize; 2]; 4] = [[0, 0], [1, 0], [0, 3], [1, 1]];

/// Runs `op` on the part from `start` of two blocks of these dtypes; returns all bits of the second.
fn on_two<D: Device>(
    ctx: &Context<D>,
    [from, to]: [DType; 2],
    len: usize,
    start: [usize; 2],
    op: impl Fn(&Context<D>, &Block<D>, &mut Block<D>),
) -> Vec<u32> {
    // Values that no bf16 holds, so that rounding shows.
    let values = |seed, len| normal_f64(seed, len).iter().map(|x| x * 1.2345).collect::<Vec<_>>();
    let src = upload_as(ctx, from, &values(1, len + start[0]));
    let mut dst = upload_as(ctx, to, &values(2, len + start[1] + 2));
    op(ctx, &src, &mut dst);
    bits(ctx, &dst)
}

/// Compares `$op(x, y)` on the device with the CPU device for all lengths, places and dtypes.
macro_rules! assert_bits_of_the_cpu {
    ($ctx:expr, $op:path) => {
        let pairs = FLOATS.into_iter().flat_map(|from| FLOATS.map(|to| [from, to]));
        for (len, start, dtypes) in pairs.flat_map(|dtypes| {
            STARTS.into_iter().flat_map(move |start| LENGTHS.map(|len| (len, start, dtypes)))
        }) {
            let [a, b] = start;
            let got = on_two($ctx, dtypes, len, start, |ctx, x, y| {
                $op(ctx, x.range(a, [len]), y.range_mut(b, [len])).unwrap();
            });
            let want = on_two(&cpu(), dtypes, len, start, |ctx, x, y| {
                $op(ctx, x.range(a, [len]), y.range_mut(b, [len])).unwrap();
            });
            assert_eq!(got, want, "{len} elements from {start:?}, {dtypes:?}");
        }
    };
}

#[test]
fn cast_has_the_bits_of_the_cpu() {
    for_each_setting(|ctx| {
        assert_bits_of_the_cpu!(ctx, elementwise::cast);
    });
    with_warps_of_64(|ctx| {
        assert_bits_of_the_cpu!(ctx, elementwise::cast);
    });
}

#[test]
fn add_assign_has_the_bits_of_the_cpu() {
    for_each_setting(|ctx| {
        assert_bits_of_the_cpu!(ctx, elementwise::add_assign);
    });
}

#[test]
fn cast_of_numbers_that_are_none_has_the_bits_of_the_cpu() {
    let specials = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 3.4e38, 1e-40, -1e-45];
    fn run<D: Device>(ctx: &Context<D>, values: &[f64], to: DType) -> Vec<u32> {
        let src = upload_as(ctx, DType::F32, values);
        let mut dst = upload_as(ctx, to, values);
        elementwise::cast(ctx, src.view([values.len()]), dst.view_mut([values.len()])).unwrap();
        // A GPU's conversion has a NaN of its own: any is as good.
        let one_nan = |bits: u32| if f32::from_bits(bits).is_nan() { f32::NAN.to_bits() } else { bits };
        bits(ctx, &dst).into_iter().map(one_nan).collect()
    }
    for_each_setting(|ctx| {
        for to in FLOATS {
            assert_eq!(run(ctx, &specials, to), run(&cpu(), &specials, to), "{to}");
        }
    });
}

#[test]
fn fill_writes_every_element_and_no_other() {
    for_each_setting(|ctx| {
        for (dtype, start) in FLOATS.into_iter().flat_map(|dtype| [0, 1, 3].map(|start| (dtype, start))) {
            for len in LENGTHS {
                let mut block = upload_as(ctx, dtype, &vec![7.0; start + len + 2]);
                elementwise::fill(ctx, 0.1, block.range_mut(start, [len])).unwrap();
                let mut want = vec![7.0; start + len + 2];
                want[start..start + len].fill(0.1);
                let want = bits(&cpu(), &upload_as(&cpu(), dtype, &want));
                assert_eq!(bits(ctx, &block), want, "{len} elements from {start}, {dtype}");
            }
        }
    });
}
