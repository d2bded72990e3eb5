//! AdamW: the bits of the CPU device for all dtypes, parts of tensors and addresses.

use bytemuck::Zeroable;
use tisserand_kernels::cuda::{Driver, LaunchConfig};
use tisserand_kernels::ops::adamw::{self, AdamwParams};
use tisserand_kernels::ops::philox::{self, GlobalIndex};
use tisserand_kernels::ops::step_scalars::{StepScalars, WORDS};
use tisserand_kernels::testing::{bits, normal_f64, poisoned, upload, upload_as};
use tisserand_kernels::{Block, Context, DType, Device};

#[cfg(feature = "emulator")]
use crate::support::counting;
use crate::support::{Dev, FLOATS, cpu, for_each_setting, with_warps_of_64};

use DType::{Bf16, F32};

/// Element types of master weights, moments and compute copy.
type DTypes = [DType; 3];

fn all_dtypes() -> Vec<DTypes> {
    let pairs = FLOATS.into_iter().flat_map(|master| FLOATS.map(|moments| [master, moments]));
    pairs.flat_map(|[master, moments]| FLOATS.map(|weights| [master, moments, weights])).collect()
}

/// Where the elements of a call stand: in the whole tensor, and in their blocks.
#[derive(Clone, Copy, Debug)]
struct Case {
    index: GlobalIndex,
    /// Elements before the first one: of gradient, master weights, both moments and compute copy.
    starts: [usize; 5],
    len: usize,
}

fn scalars() -> StepScalars {
    let mut scalars = StepScalars {
        lr: 0.01,
        loss_scale: 1.0,
        max_grad_norm: 1.0,
        beta1: 0.9,
        beta2: 0.95,
        step: 14,
        seed_low: 3,
        seed_high: 0x8000_0001,
        max_skipped: 3,
        num_updates: 3,
        ..StepScalars::zeroed()
    };
    scalars.finish(4.0, [1.0, 0.0]);
    scalars
}

struct Blocks<D: Device> {
    grad: Block<D>,
    p: Block<D>,
    m: Block<D>,
    v: Block<D>,
    copy: Block<D>,
}

impl<D: Device> Blocks<D> {
    /// Numbers that no bf16 holds; second moments are not negative.
    fn new(ctx: &Context<D>, [master, moments, weights]: DTypes, case: Case) -> Self {
        let Case { starts: [grad, p, m, v, copy], len, .. } = case;
        let values =
            |seed, start| normal_f64(seed, start + len + 2).iter().map(|x| x * 1.2345).collect::<Vec<_>>();
        Blocks {
            grad: upload_as(ctx, F32, &normal_f64(1, grad + len)),
            p: upload_as(ctx, master, &values(2, p)),
            m: upload_as(ctx, moments, &values(3, m)),
            v: upload_as(ctx, moments, &values(4, v).iter().map(|v| v.abs()).collect::<Vec<_>>()),
            copy: poisoned(ctx, weights, [copy + len + 2]),
        }
    }

    fn bits(&self, ctx: &Context<D>) -> [Vec<u32>; 4] {
        [&self.p, &self.m, &self.v, &self.copy].map(|block| bits(ctx, block))
    }
}

/// All bits of master weights, moments and compute copy after one update.
fn update<D: Device>(ctx: &Context<D>, scalars: StepScalars, dtypes: DTypes, case: Case) -> [Vec<u32>; 4] {
    let Case { index, starts: [grad, p, m, v, copy], len } = case;
    let mut blocks = Blocks::new(ctx, dtypes, case);
    let params = AdamwParams {
        lr_scale: 0.5,
        eps: 1e-8,
        weight_decay: 0.1,
        tensor_key: philox::tensor_key("model.embed_tokens.weight"),
        index,
    };
    adamw::update(
        ctx,
        &params,
        upload(ctx, &scalars.to_words()).view([WORDS]),
        blocks.grad.range(grad, [len]),
        blocks.p.range_mut(p, [len]),
        blocks.m.range_mut(m, [len]),
        blocks.v.range_mut(v, [len]),
        blocks.copy.range_mut(copy, [len]),
    )
    .unwrap();
    blocks.bits(ctx)
}

fn assert_bits_of_the_cpu(ctx: &Context<Dev>, cases: &[Case]) {
    for (dtypes, case) in
        all_dtypes().into_iter().flat_map(|dtypes| cases.iter().map(move |case| (dtypes, *case)))
    {
        let (got, want) = (update(ctx, scalars(), dtypes, case), update(&cpu(), scalars(), dtypes, case));
        for (name, (got, want)) in ["master", "m", "v", "weights"].iter().zip(got.iter().zip(&want)) {
            assert!(got == want, "{name} of {dtypes:?} {case:?}");
        }
    }
}

fn cases() -> Vec<Case> {
    let contiguous = GlobalIndex::contiguous;
    let lens = [0, 1, 7, 8, 255, 1031, 4099].map(|len| Case { index: contiguous(64), starts: [0; 5], len });
    let together = [[0, 3, 3, 3, 3], [1; 5], [8, 4, 4, 4, 4], [4, 8, 8, 8, 8]];
    let alone = [0, 1, 2, 3, 4].map(|odd| std::array::from_fn(|tensor| usize::from(tensor == odd)));
    let starts =
        together.into_iter().chain(alone).map(|starts| Case { index: contiguous(0), starts, len: 301 });
    let columns = [(0, 16, 48), (8, 24, 40), (4, 12, 20), (3, 7, 10), (5, 8, 24), (1 << 40, 1, 2)]
        .map(|(first, held, whole)| GlobalIndex::columns(first, held, whole));
    let ranges = [3, 4, 8 * u64::from(u32::MAX) - 16].map(contiguous);
    let advanced = [columns[0].advance(8), columns[0].advance(20), columns[3].advance(5)];
    let indices = columns.into_iter().chain(ranges).chain(advanced);
    let indices = indices.map(|index| Case { index, starts: [0; 5], len: 203 });
    lens.into_iter().chain(starts).chain(indices).collect()
}

#[test]
fn updates_have_the_bits_of_the_cpu() {
    for_each_setting(|ctx| assert_bits_of_the_cpu(ctx, &cases()));
    with_warps_of_64(|ctx| assert_bits_of_the_cpu(ctx, &cases()));
}

/// A long tensor has more elements than the grid has threads: each has several groups. Here, with one block.
#[test]
fn threads_go_on_until_all_elements_are_updated() {
    let case = Case { index: GlobalIndex::contiguous(0), starts: [0; 5], len: 5003 };
    let want = update(&cpu(), scalars(), [F32, F32, Bf16], case);
    for_each_setting(|ctx| {
        let mut blocks = Blocks::new(ctx, [F32, F32, Bf16], case);
        let words = upload(ctx, &scalars().to_words());
        let n = case.len;
        let args = [
            words.view([WORDS]).into(),
            blocks.grad.range(0, [n]).into(),
            blocks.p.range_mut(0, [n]).into(),
            blocks.m.range_mut(0, [n]).into(),
            blocks.v.range_mut(0, [n]).into(),
            blocks.copy.range_mut(0, [n]).into(),
            0.5_f32.into(),
            1e-8_f32.into(),
            0.1_f32.into(),
            0_u64.into(),
            0_u64.into(),
            0_u64.into(),
            u64::MAX.into(),
            u64::MAX.into(),
            (n as u64).into(),
        ];
        ctx.device.driver().launch("adamw_update_f32_f32_bf16", LaunchConfig::blocks(1, 256), &args).unwrap();
        assert!(blocks.bits(ctx) == want);
    });
}

#[test]
fn a_skipped_step_touches_nothing() {
    let skipped = StepScalars { update: 0, clip_factor: 0.0, ..scalars() };
    let case = Case { index: GlobalIndex::contiguous(0), starts: [0, 1, 1, 1, 1], len: 1031 };
    for_each_setting(|ctx| {
        for dtypes in all_dtypes() {
            let (got, want) = (update(ctx, skipped, dtypes, case), update(&cpu(), skipped, dtypes, case));
            assert!(got == want, "{dtypes:?}");
        }
    });
}

#[cfg(feature = "emulator")]
#[test]
fn whole_sectors_are_written_and_read() {
    const LEN: u64 = 1 << 13;
    let case = Case { index: GlobalIndex::contiguous(0), starts: [0; 5], len: LEN as usize };
    counting(|ctx| {
        for dtypes in all_dtypes() {
            let sectors = |scalars| {
                ctx.device.driver().take_counters();
                update(ctx, scalars, dtypes, case);
                ctx.device.driver().take_counters().global_sectors
            };
            let state: usize = dtypes.iter().map(|dtype| dtype.size_bytes()).sum();
            let [master, moments, weights] = dtypes.map(|dtype| dtype.size_bytes() as u64);
            let written = 2 * (master + 2 * moments) + weights;
            // Where all that is written is narrow, the gradient is read in halves of sectors, twice.
            let grad = if state == 6 { 8 } else { 4 };
            // Ten words of the scalars for every warp, beside what all threads read: whether to update at all.
            let elements_per_thread = if state == 6 { 8 } else { 4 };
            let warps = LEN / elements_per_thread / 32;
            let got = sectors(scalars());
            let of_tensors = LEN * (written + grad) / 32;
            assert!(
                got >= of_tensors && got <= of_tensors + 12 * warps,
                "{dtypes:?}: {got} sectors, {of_tensors}"
            );
        }
    });
}
