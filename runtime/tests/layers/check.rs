//! The generic layer check: what every layer of the model must show, whatever it computes.
//!
//! - Gradients of the input and of every parameter equal central differences; parameters that get a
//!   gradient are those that the layer names.
//! - Between forward and backward the arena holds exactly the bytes that the layer states, and nothing
//!   is left behind afterwards.
//! - Forward and backward count exactly the FLOPs that the layer states.

use std::ops::Range;

use tisserand_kernels::testing::{download, normal_f64, rms, tolerance, upload_as};
use tisserand_kernels::{Block, Class, Context, Cpu, DType, Device, DryRun, Storage};
use tisserand_runtime::Result;
use tisserand_runtime::data::MicroBatch;
use tisserand_runtime::model::Pass;
use tisserand_runtime::model::pass::{DeviceBatch, RopeTable};
use tisserand_runtime::model_config::ModelConfig;
use tisserand_runtime::parallel::TensorParallel;
use tisserand_runtime::parallel::tensor::Tokens;
use tisserand_runtime::params::{
    Group, ParamInit, ParamSpec, PerGroup, UnitGradients, UnitLayout, UnitWeights,
};

/// A layer as the check drives it.
pub(crate) trait Layer {
    /// What lives between forward and backward, the input included.
    type Saved<D: Device>;

    /// Columns of the input; 0 if the layer reads only the batch.
    fn in_features(&self) -> usize;

    /// The ends of the names of the parameters that it reads.
    fn parameters(&self) -> Vec<&'static str>;

    /// The output, and what backward needs.
    fn forward<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        x: Block<D>,
    ) -> Result<(Block<D>, Self::Saved<D>)>;

    /// Adds the parameters' gradients and returns that of the input, given that of the output.
    fn backward<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        gradients: &mut UnitGradients<'_, D>,
        saved: Self::Saved<D>,
        dout: Block<D>,
    ) -> Result<Block<D>>;

    /// Bytes per token of `Saved`.
    fn saved_bytes(&self, dtype: DType) -> usize;

    /// FLOPs of forward and of backward for `t` tokens.
    fn flops(&self, t: u64) -> [u64; 2];

    /// Gradient of the scalar loss with respect to the output's `len` elements.
    fn output_gradient(&self, len: usize) -> Vec<f64> {
        normal_f64(77, len)
    }
}

/// A layer and the unit that owns its parameters.
pub(crate) struct Subject<'a, L> {
    /// For messages.
    pub(crate) name: String,
    /// Gives the rotary table.
    pub(crate) config: &'a ModelConfig,
    /// Parameters; others than the layer's may be among them.
    pub(crate) unit: &'a UnitLayout,
    /// The layer.
    pub(crate) layer: L,
}

/// Every check of one layer.
pub(crate) fn check<L: Layer>(subject: &Subject<'_, L>) {
    check_gradients(subject);
    for dtype in [DType::F32, DType::Bf16] {
        check_counts(subject, dtype);
    }
}

/// Tokens of the gradient check: three documents off every tile.
const DOCUMENTS: [usize; 3] = [13, 1, 9];
const GRADIENT_TOKENS: usize = 23;
/// Tokens of the byte check: every block is then a multiple of the arena's alignment.
const COUNTED_TOKENS: usize = 128;

/// Step of the differences, relative to the size of a tensor's elements: near the balance of truncation
/// (h² relative, before extrapolation) and rounding (epsilon / h).
const STEP: f64 = 1.0 / 128.0;
/// Directions per tensor.
const DIRECTIONS: u64 = 3;
/// The bound on the error must be below this part of the gradient, or the check would show nothing.
const POWER: f64 = 0.05;

/// A layer on a device.
struct Bench<'a, D: Device, L> {
    ctx: Context<D>,
    batch: DeviceBatch<D>,
    rope: RopeTable<D>,
    tp: TensorParallel<D>,
    dtype: DType,
    subject: &'a Subject<'a, L>,
}

impl<'a, D: Device, L: Layer> Bench<'a, D, L> {
    fn new(device: D, bytes: usize, dtype: DType, batch: &MicroBatch, subject: &'a Subject<'a, L>) -> Self {
        let ctx = Context::new(device, bytes).unwrap();
        let rope = RopeTable::new(&ctx, subject.config, batch.tokens.len()).unwrap();
        let mut on_device = DeviceBatch::new(&ctx, batch.tokens.len()).unwrap();
        on_device.upload(&ctx, batch).unwrap();
        let tp = TensorParallel::single(&ctx.device);
        Bench { ctx, batch: on_device, rope, tp, dtype, subject }
    }

    fn pass(&self) -> Pass<'_, D> {
        Pass {
            ctx: &self.ctx,
            batch: &self.batch,
            rope: &self.rope,
            dtype: self.dtype,
            tp: &self.tp,
            layout: Tokens::Cut,
        }
    }

    fn groups(&self, class: Class, dtype: DType) -> PerGroup<Block<D>> {
        self.subject.unit.groups.each_ref().map(|group| {
            let len = group.padded_len(1);
            let mut block = self.ctx.arena.block(class, dtype, len).unwrap();
            self.ctx.device.zero(block.view_mut([len])).unwrap();
            block
        })
    }
}

/// Input and parameters of a layer, or their gradients.
#[derive(Clone)]
struct Values {
    /// Input, then every group.
    parts: [Vec<f64>; 1 + Group::COUNT],
}

/// A tensor in [`Values`].
struct Place {
    name: String,
    part: usize,
    range: Range<usize>,
}

impl Values {
    /// Random values of the size that a trained model has; padding is zero.
    fn random<L: Layer>(subject: &Subject<'_, L>) -> Self {
        let input = normal_f64(1, GRADIENT_TOKENS * subject.layer.in_features());
        let mut parts = [const { Vec::new() }; 1 + Group::COUNT];
        parts[0] = input;
        for (part, group) in parts[1..].iter_mut().zip(&subject.unit.groups) {
            part.resize(group.padded_len(1), 0.0);
            for (seed, param) in group.params.iter().enumerate() {
                let (base, scale) = match param.init {
                    ParamInit::Constant(value) => (f64::from(value), 0.3),
                    ParamInit::Normal { .. } => (0.0, 1.0 / (param.shape[1] as f64).sqrt()),
                };
                let values = normal_f64(100 + seed as u64, param.len());
                let slots = &mut part[param.offset..][..param.len()];
                slots
                    .iter_mut()
                    .zip(values)
                    .for_each(|(slot, v)| *slot = f64::from((base + scale * v) as f32));
            }
        }
        Values { parts }
    }

    /// The input, and every parameter of the unit.
    fn places(unit: &UnitLayout, input_len: usize) -> Vec<Place> {
        let input = (input_len > 0).then(|| Place { name: "input".into(), part: 0, range: 0..input_len });
        let place = |part: usize, param: &ParamSpec| Place {
            name: param.name.clone(),
            part,
            range: param.offset..param.offset + param.len(),
        };
        let groups = unit.groups.iter().enumerate();
        let params = groups.flat_map(|(i, group)| group.params.iter().map(move |p| place(i + 1, p)));
        input.into_iter().chain(params).collect()
    }

    fn at(&self, place: &Place) -> &[f64] {
        &self.parts[place.part][place.range.clone()]
    }

    /// These values with `step · direction` added to one tensor, rounded to f32.
    fn moved(&self, place: &Place, direction: &[f64], step: f64) -> Self {
        let mut moved = self.clone();
        let slots = &mut moved.parts[place.part][place.range.clone()];
        slots.iter_mut().zip(direction).for_each(|(slot, d)| *slot = f64::from((*slot + step * d) as f32));
        moved
    }
}

impl<L: Layer> Bench<'_, Cpu, L> {
    fn upload(&self, values: &Values) -> (Block<Cpu>, PerGroup<Block<Cpu>>) {
        let [x, groups @ ..] = values.parts.each_ref().map(|part| upload_as(&self.ctx, DType::F32, part));
        (x, groups)
    }

    /// The output.
    fn output(&self, values: &Values) -> Vec<f64> {
        let (x, weights) = self.upload(values);
        let weights = UnitWeights::new(weights.each_ref());
        let (y, _saved) = self.subject.layer.forward(&self.pass(), &weights, x).unwrap();
        download(&self.ctx, &y).into_iter().map(f64::from).collect()
    }

    /// The gradients of `sum_i dout[i] · output[i]`.
    fn gradients(&self, values: &Values, dout: &[f64]) -> Values {
        let (x, weights) = self.upload(values);
        let weights = UnitWeights::new(weights.each_ref());
        let (_, saved) = self.subject.layer.forward(&self.pass(), &weights, x).unwrap();
        let mut groups = self.groups(Class::Gradients, DType::F32);
        let mut gradients = UnitGradients::new(groups.each_mut());
        let dout = upload_as(&self.ctx, DType::F32, dout);
        let dx = self.subject.layer.backward(&self.pass(), &weights, &mut gradients, saved, dout).unwrap();
        let [a, b, c, d] = &groups;
        let parts =
            [&dx, a, b, c, d].map(|block| download(&self.ctx, block).into_iter().map(f64::from).collect());
        Values { parts }
    }
}

fn documents() -> MicroBatch {
    let tokens = GRADIENT_TOKENS;
    let mut cu_seqlens = vec![0];
    let mut positions = Vec::new();
    for len in DOCUMENTS {
        cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + len as u32);
        positions.extend(0..len as u32);
    }
    cu_seqlens.resize(tokens + 1, tokens as u32);
    MicroBatch {
        tokens: (0..tokens as u32).map(|t| t * 7 % 19).collect(),
        labels: (0..tokens as i32).map(|t| if t % 5 == 4 { -100 } else { t * 5 % 19 }).collect(),
        positions,
        cu_seqlens,
        valid_tokens: tokens as u64 - tokens as u64 / 5,
    }
}

/// Holds the derivative along random directions v of the loss `L = sum_i dout[i] · y[i]` against `g · v`.
///
/// With `D(h) = (L(p + h v) - L(p - h v)) / 2h` the difference `(4 D(h) - D(2h)) / 3` is taken (Richardson),
/// whose error is below the correction `|D(h) - D(2h)| / 3` as long as the next term of the series is
/// smaller than the first. To this comes rounding. An output of a sum of n terms is off by about
/// `t · rms(y)`, `t = tolerance(f32, n)`, independently of the others, so each L is off by
/// `t · rms(y) · |dout|`; the four weights of the difference (2/3h twice, 1/12h twice) make it 0.95 / h times
/// that. The moved points are rounded to f32 (epsilon / h of the step), and g itself is off by t: both
/// relative to `|g| · rms(v)`, the size of `g · v`.
fn check_gradients<L: Layer>(subject: &Subject<'_, L>) {
    const ARENA_BYTES: usize = 16 << 20;
    let name = &subject.name;
    let bench = Bench::new(Cpu::new(2).unwrap(), ARENA_BYTES, DType::F32, &documents(), subject);
    let values = Values::random(subject);
    let output = bench.output(&values);
    let dout = subject.layer.output_gradient(output.len());
    let gradients = bench.gradients(&values, &dout);
    let loss = |values: &Values| -> f64 { bench.output(values).iter().zip(&dout).map(|(y, d)| y * d).sum() };

    let widest = subject.unit.params().flat_map(|p| &p.shape).copied().max().unwrap_or(1);
    let accuracy = tolerance(DType::F32, widest.max(GRADIENT_TOKENS));
    let mut with_gradient = Vec::new();
    for place in Values::places(subject.unit, values.parts[0].len()) {
        let gradient = gradients.at(&place);
        let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        assert!(norm.is_finite(), "{name}: gradient of {} is {norm}", place.name);
        if norm > 0.0 && place.part > 0 {
            with_gradient.push(place.name.clone());
        }
        let size = rms(values.at(&place));
        for seed in 0..DIRECTIONS {
            let direction = normal_f64(1000 + seed, gradient.len());
            let direction: Vec<f64> = direction.iter().map(|v| v * size).collect();
            let along = |step: f64| -> f64 {
                let [above, below] = [step, -step].map(|step| loss(&values.moved(&place, &direction, step)));
                (above - below) / (2.0 * step)
            };
            let (near, far) = (along(STEP), along(2.0 * STEP));
            let difference = (4.0 * near - far) / 3.0;
            let expected: f64 = gradient.iter().zip(&direction).map(|(g, v)| g * v).sum();
            let dout_norm = dout.iter().map(|d| d * d).sum::<f64>().sqrt();
            let rounding = 0.95 / STEP * accuracy * rms(&output) * dout_norm;
            let relative = (f64::from(f32::EPSILON) / STEP + accuracy) * norm * rms(&direction);
            let bound = (near - far).abs() / 3.0 + rounding + relative;
            let error = (difference - expected).abs();
            assert!(
                error <= bound,
                "{name}: derivative of {} is {expected}, differences give {difference} within {bound:.1e}",
                place.name,
            );
            let least = POWER * norm * rms(&direction);
            assert!(
                norm == 0.0 || bound <= least,
                "{name}: {}: the bound {bound:.1e} exceeds {least:.1e}",
                place.name
            );
        }
    }
    let mut named = subject.layer.parameters();
    for got in &with_gradient {
        let at = named.iter().position(|end| got == end || got.ends_with(&format!(".{end}")));
        assert!(at.is_some(), "{name}: {got} gets a gradient but is none of its parameters");
        named.remove(at.unwrap());
    }
    assert!(named.is_empty(), "{name}: no gradient for {named:?}");
}

/// Holds bytes and FLOPs against what the layer states.
fn check_counts<L: Layer>(subject: &Subject<'_, L>, dtype: DType) {
    let name = format!("{} in {dtype}", subject.name);
    let (layer, tokens) = (&subject.layer, COUNTED_TOKENS);
    let device = DryRun::new(Cpu::new(1).unwrap().caps());
    let batch = MicroBatch::empty(tokens);
    let bench = Bench::new(device.clone(), DryRun::CAPACITY_BYTES, dtype, &batch, subject);
    let weights = bench.groups(Class::Weights, dtype);
    let mut gradients = bench.groups(Class::Gradients, DType::F32);
    let used = || bench.ctx.arena.usage().of(Class::Activations);
    let flops = || device.take_totals().iter().map(|total| total.cost.flops).sum::<u64>();
    flops();

    let (pass, weights) = (bench.pass(), UnitWeights::new(weights.each_ref()));
    let x = pass.activations(layer.in_features()).unwrap();
    let (y, saved) = layer.forward(&pass, &weights, x).unwrap();
    let forward = flops();
    let dout = y.len();
    let dout_dtype = y.dtype();
    drop(y);
    assert_eq!(used(), tokens * layer.saved_bytes(dtype), "{name}: bytes of Saved for {tokens} tokens");

    let dout = bench.ctx.arena.block(Class::Activations, dout_dtype, dout).unwrap();
    let mut gradients = UnitGradients::new(gradients.each_mut());
    drop(layer.backward(&pass, &weights, &mut gradients, saved, dout).unwrap());
    assert_eq!([forward, flops()], layer.flops(tokens as u64), "{name}: FLOPs of forward and backward");
    assert_eq!(used(), 0, "{name}: activations left behind");
}
