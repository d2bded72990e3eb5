//! Every tile by itself: against the reference, equal bits from all of them, and that neither memory spends more on
//! an access than it must.

use tisserand_kernels::cuda::gemm::{Tile, arguments};
use tisserand_kernels::cuda::{Arg, Driver};
use tisserand_kernels::ops::gemm::{self, GemmShape, Layout, reference};
use tisserand_kernels::ops::{Write, elementwise, swiglu};
use tisserand_kernels::testing::{bits, download, poisoned, upload_as};
use tisserand_kernels::{Block, Context, DType, Device};

use super::{Operands, check, operands, scale, sum, target};
use crate::support::{Dev, cpu, for_each_setting, in_one_setting};
use DType::{Bf16, F32};
use Layout::{Nn, Nt, Tn};

const LAYOUTS: [Layout; 3] = [Nt, Nn, Tn];

/// Tiles whose operands are bf16.
#[cfg(feature = "emulator")]
const TILES: [Tile; 4] = [Tile::Large, Tile::Medium, Tile::Small, Tile::Converting];

/// One product by one kernel; returns `c`.
fn launch(
    ctx: &Context<Dev>,
    tile: Tile,
    layout: Layout,
    operands: &Operands,
    dtypes: [DType; 3],
    write: Write,
) -> Block<Dev> {
    let Operands { shape, a, b, old } = operands;
    let [a, b] = [upload_as(ctx, dtypes[0], a), upload_as(ctx, dtypes[1], b)];
    let mut c = target(ctx, dtypes[2], 0, old, write);
    let config = tile.launch_config(*shape);
    let views = [a.view([a.len()]), b.view([b.len()])];
    let args = arguments(*shape, views, None, None, write, c.view_mut([old.len()]));
    ctx.device.driver().launch(tile.kernel(layout, dtypes), config, &args).unwrap();
    c
}

/// More than one tile in both directions, with tails that are not multiples of anything but chunks; more terms
/// than all stages hold, or fewer than one.
const SHAPES: [GemmShape; 2] = [GemmShape { m: 72, n: 264, k: 200 }, GemmShape { m: 136, n: 72, k: 8 }];

#[test]
fn tiles_equal_the_reference_and_have_the_same_bits() {
    for_each_setting(|ctx| {
        for shape in SHAPES {
            let operands = operands(shape);
            let Operands { a, b, old, .. } = &operands;
            for layout in LAYOUTS {
                let products = reference::product(layout, shape, a, b);
                for (dtype, write) in [(F32, Write::Add), (Bf16, Write::Replace)] {
                    let want = if write == Write::Add { sum(&products, old) } else { products.clone() };
                    let run = |tile| launch(ctx, tile, layout, &operands, [Bf16, Bf16, dtype], write);
                    let large = run(Tile::Large);
                    let name = format!("{layout:?} {shape:?} {dtype} {write:?}");
                    check(ctx, &name, &large, 0, &want, scale(a, b, shape.k), shape.k);
                    let of_large = bits(ctx, &large);
                    for tile in [Tile::Medium, Tile::Small, Tile::Converting] {
                        let name = format!("{tile:?} {layout:?} {shape:?} {dtype} {write:?}");
                        assert!(bits(ctx, &run(tile)) == of_large, "{name}: bits of another tile");
                    }
                }
            }
        }
    });
}

/// Bits of `gate_up` and `out` of one feed-forward layer's first half.
fn swiglu_bits<D: Device>(ctx: &Context<D>, gate_up: &Block<D>, out: &Block<D>) -> [Vec<u32>; 2] {
    [gate_up, out].map(|block| bits(ctx, block))
}

#[test]
fn with_swiglu_has_the_bits_of_the_two_ops() {
    for_each_setting(|ctx| {
        for (tile, tokens, width) in [(Tile::Small, 65, 40), (Tile::Large, 65, 136), (Tile::Small, 9, 33)] {
            let shape = GemmShape { m: tokens, n: 2 * width, k: 136 };
            let operands = operands(shape);
            let mut plain = launch(ctx, Tile::Small, Nt, &operands, [Bf16; 3], Write::Replace);
            let gate_up_values: Vec<f64> = download(ctx, &plain).iter().map(|x| f64::from(*x)).collect();
            let host = cpu();
            let on_host = upload_as(&host, Bf16, &gate_up_values);
            let mut want = poisoned(&host, Bf16, [tokens * width]);
            let want_view = want.view_mut([tokens, width]);
            swiglu::forward(&host, on_host.view([tokens, 2 * width]), want_view).unwrap();
            let want = swiglu_bits(&host, &on_host, &want);

            let [x, weight] = [upload_as(ctx, Bf16, &operands.a), upload_as(ctx, Bf16, &operands.b)];
            let mut out = poisoned(ctx, Bf16, [tokens * width]);
            plain = poisoned(ctx, Bf16, [tokens * 2 * width]);
            let (tile, kernel) = tile.with_swiglu().unwrap();
            let args: [Arg<'_, _>; 7] = [
                x.view([x.len()]).into(),
                weight.view([weight.len()]).into(),
                plain.view_mut([tokens * 2 * width]).into(),
                out.view_mut([tokens * width]).into(),
                (tokens as u32).into(),
                (width as u32).into(),
                136_u32.into(),
            ];
            ctx.device.driver().launch(kernel, tile.launch_config(shape), &args).unwrap();
            assert!(swiglu_bits(ctx, &plain, &out) == want, "{kernel}: {shape:?}");

            let mut gate_up = poisoned(ctx, Bf16, [tokens * 2 * width]);
            let (x, weight) = (x.view([tokens, 136]), weight.view([2 * width, 136]));
            let (wide, narrow) = (gate_up.view_mut([tokens, 2 * width]), out.view_mut([tokens, width]));
            gemm::linear_swiglu(ctx, x, weight, wide, narrow).unwrap();
            assert!(swiglu_bits(ctx, &gate_up, &out) == want, "through the front door: {shape:?}");
        }
    });
}

#[test]
fn rounds_an_f32_operand_to_bf16_where_the_other_one_is_bf16() {
    let shape = GemmShape { m: 40, n: 24, k: 48 };
    let finer = |values: Vec<f64>| values.iter().map(|x| x * 1.2345).collect::<Vec<_>>();
    for_each_setting(|ctx| {
        let Operands { a, b, old, .. } = operands(shape);
        let operands = Operands { shape, a: finer(a), b: finer(b), old };
        for layout in LAYOUTS {
            for dtypes in [[F32, Bf16, F32], [Bf16, F32, F32]] {
                let run = |dtypes| {
                    let c = launch(ctx, Tile::Converting, layout, &operands, dtypes, Write::Replace);
                    bits(ctx, &c)
                };
                assert!(run(dtypes) == run([Bf16, Bf16, F32]), "{layout:?} {dtypes:?}");
            }
        }
    });
}

#[test]
fn gives_the_same_bits_twice() {
    let operands = operands(SHAPES[0]);
    in_one_setting(|ctx| {
        for layout in LAYOUTS {
            let run = || bits(ctx, &launch(ctx, Tile::Small, layout, &operands, [Bf16; 3], Write::Replace));
            assert!(run() == run(), "{layout:?}");
        }
    });
}

#[cfg(feature = "emulator")]
#[test]
fn has_no_bank_conflicts_and_moves_whole_sectors() {
    use tisserand_kernels::cuda::driver::emulated::Settings;
    let ctx = crate::support::context(Settings { count_accesses: true, ..Settings::default() });
    for tile in TILES {
        let [m, n] = tile.extents();
        let operands = operands(GemmShape { m, n, k: 256 });
        for layout in LAYOUTS {
            for (dtype, write) in [(F32, Write::Add), (Bf16, Write::Replace)] {
                ctx.device.driver().take_counters();
                launch(&ctx, tile, layout, &operands, [Bf16, Bf16, dtype], write);
                let counters = ctx.device.driver().counters();
                let name = format!("{tile:?} {layout:?} {dtype}: {counters:?}");
                assert!(counters.shared_accesses > 0 && counters.global_accesses > 0, "{name}");
                assert_eq!(counters.shared_wavefronts, counters.shared_wavefronts_at_best, "{name}");
                assert_eq!(counters.global_sectors, counters.global_sectors_at_best, "{name}");
            }
        }
    }
}

#[test]
fn casts_agree_with_those_of_the_elementwise_family() {
    in_one_setting(|ctx| {
        let shape = GemmShape { m: 8, n: 8, k: 16 };
        let operands = operands(shape);
        let sums = launch(ctx, Tile::Small, Nt, &operands, [Bf16, Bf16, F32], Write::Replace);
        let mut rounded = poisoned(ctx, Bf16, [8, 8]);
        elementwise::cast(ctx, sums.view([64]), rounded.view_mut([64])).unwrap();
        let c = launch(ctx, Tile::Small, Nt, &operands, [Bf16; 3], Write::Replace);
        assert_eq!(bits(ctx, &c), bits(ctx, &rounded), "rounded once, to nearest even");
    });
}
