//! Every op on an NVIDIA GPU at the shapes of real models, against the floor that this GPU sets.
//!
//! `cargo bench --features cuda --bench gpu -- [--quick] [--group NAME] [--only TEXT] [--json FILE] [--probe]`
//!
//! The floor of a call is `max(FLOPs / peak, bytes / bandwidth)`: FLOPs and bytes are those that the op records; peak is
//! what the vendor says of dense bf16 products; bandwidth is that of a large copy, read and written bytes, measured here. Inputs are
//! random, and calls take turns among sets of tensors that are larger together than any cache. See README.md.

mod attention;
mod inputs;
mod products;
mod report;
mod rows;
mod timing;
mod updates;

use std::error::Error;
use std::process::ExitCode;

use inputs::{Case, Cases, Inputs, Run};
use report::{Machine, Report};
use timing::{Patience, time};
use tisserand_kernels::cuda::driver::cudarc::{Cudarc, driver_cuda_version};
use tisserand_kernels::{Context, Cost, Cuda, Device, DryRun, Storage};

type Gpu = Cuda<Cudarc>;

/// Sets of tensors are added until they have so many bytes: three times the largest second-level cache and more.
const ROTATED_BYTES: usize = 384 << 20;

/// At least so many sets, however large.
const LEAST_SETS: usize = 2;

/// Bytes of the copy whose bandwidth counts.
const COPIED_BYTES: usize = 1 << 30;

/// Groups of cases by name.
const GROUPS: [&str; 6] = ["gemm", "attention", "norms", "activations", "ends", "updates"];

struct Options {
    quick: bool,
    probe: bool,
    group: Option<String>,
    only: Option<String>,
    json: Option<String>,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let options = options()?;
    let driver = Cudarc::open(0)?;
    let gpu = driver.gpu().clone();
    if options.probe {
        let (major, minor) = gpu.compute_capability;
        let (name, bytes, cuda) = (&gpu.name, gpu.memory_bytes, driver_cuda_version()?);
        println!("{name}, compute capability {major}.{minor}, {bytes} bytes, driver for CUDA {cuda}");
        return Ok(());
    }
    let row_s = if options.quick { 0.008 } else { 0.025 };
    let patience = Patience { row_s, rows: if options.quick { 5 } else { 9 } };
    let device = Cuda::new(driver);
    let machine = Machine::new(&gpu, copy_bytes_per_s(&device, patience)?);
    let mut report = Report::new(machine, options.json.as_deref())?;
    let dry_cases = cases::<DryRun>(options.group.as_deref());
    for (dry, case) in dry_cases.into_iter().zip(cases::<Gpu>(options.group.as_deref())) {
        if options.only.as_ref().is_none_or(|only| case.name.contains(only)) {
            match measure(&device, &dry, &case, patience) {
                Ok(measured) => report.case(&case.name, &measured)?,
                Err(error) => report.failure(&case.name, &error.to_string())?,
            }
        }
    }
    report.end()
}

fn options() -> Result<Options, Box<dyn Error>> {
    let mut options = Options { quick: false, probe: false, group: None, only: None, json: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--quick" => options.quick = true,
            "--probe" => options.probe = true,
            "--group" => options.group = Some(value()?),
            "--only" => options.only = Some(value()?),
            "--json" => options.json = Some(value()?),
            "--bench" => {} // what cargo passes
            _ => return Err(format!("unknown argument {argument:?}").into()),
        }
    }
    if let Some(group) = options.group.as_ref().filter(|group| !GROUPS.contains(&group.as_str())) {
        return Err(format!("no group {group:?}; there are {GROUPS:?}").into());
    }
    Ok(options)
}

/// The cases of one group, or of all.
fn cases<D: Device>(group: Option<&str>) -> Vec<Case<D>> {
    let adders: [fn(&mut Cases<D>); 6] =
        [products::add, attention::add, rows::add_norms, rows::add_activations, rows::add_ends, |cases| {
            updates::add_elementwise(cases);
            updates::add_updates(cases);
        }];
    let mut cases = Cases(Vec::new());
    for (name, add) in GROUPS.into_iter().zip(adders) {
        if group.is_none_or(|group| group == name) {
            add(&mut cases);
        }
    }
    cases.0
}

/// What a case cost and took.
pub(crate) struct Measured {
    /// Of one call.
    pub(crate) cost: Cost,
    pub(crate) timing: timing::Timing,
    pub(crate) sets: usize,
}

/// Times a case on an arena of its own, whose size a dry run tells.
fn measure(
    device: &Gpu,
    dry_case: &Case<DryRun>,
    case: &Case<Gpu>,
    patience: Patience,
) -> Result<Measured, Box<dyn Error>> {
    let dry = DryRun::new(Gpu::CAPS);
    let ctx = Context::new(dry.clone(), DryRun::CAPACITY_BYTES)?;
    let mut first = (dry_case.make)(&mut Inputs::new(&ctx))?;
    let set_bytes = ctx.arena.usage().total();
    dry.take_totals();
    first(&ctx)?;
    let cost = match (case.cost, dry.take_totals().as_slice()) {
        (Some(cost), _) => cost,
        (None, [total]) => total.cost,
        (None, _) => return Err("not one op".into()),
    };
    let sets = ROTATED_BYTES.div_ceil(set_bytes.max(1)).max(LEAST_SETS);
    // One set more than there is: what comes and goes while sets are made leaves holes.
    let arena_bytes = sets * set_bytes + ctx.arena.high_water_bytes();
    let ctx = Context::new(device.clone(), arena_bytes)?;
    let mut inputs = Inputs::new(&ctx);
    let mut runs = (0..sets).map(|_| (case.make)(&mut inputs)).collect::<Result<Vec<Run<Gpu>>, _>>()?;
    let timing = time(&ctx, &mut runs, patience)?;
    Ok(Measured { cost, timing, sets })
}

/// Bytes read and written per second by the driver's copy.
fn copy_bytes_per_s(device: &Gpu, patience: Patience) -> Result<f64, Box<dyn Error>> {
    let len = COPIED_BYTES / 4;
    let ctx = Context::new(device.clone(), 2 * COPIED_BYTES + ROTATED_BYTES)?;
    let mut inputs = Inputs::new(&ctx);
    let (from, mut to) = (inputs.f32(len)?, inputs.f32(len)?);
    let run: Run<Gpu> = Box::new(move |ctx| ctx.device.copy(from.view([len]), to.view_mut([len])));
    Ok(2.0 * COPIED_BYTES as f64 / time(&ctx, &mut [run], patience)?.median_s)
}
