//! Parity with PyTorch: every fixture folder holds a Hugging Face checkpoint and a reference run of
//! transformers in f32 (`reference.json` explains). Checks tests/fixtures/ and, if set, every folder in
//! the directory that the environment variable TISSERAND_FIXTURES names.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value;
use tisserand_collectives::{Axes, Progress, Workspace};
use tisserand_kernels::ops::cross_entropy::CrossEntropyParams;
use tisserand_kernels::ops::step_scalars::StepScalars;
use tisserand_kernels::{Context, Cpu, DType, Storage};
use tisserand_runtime::checkpoint::HfFolder;
use tisserand_runtime::config::Optimizer;
use tisserand_runtime::data::MicroBatch;
use tisserand_runtime::engine::{Engine, Part};
use tisserand_runtime::model::Transformer;
use tisserand_runtime::model::block::Recompute;
use tisserand_runtime::parallel::Sharding;
use tisserand_runtime::step::{Executor, StateDTypes, StepConfig};
use tisserand_runtime::{hf_config, plan};

const LOGITS_MAX_ABS: f64 = 1e-5;
const LOSS_RELATIVE: f64 = 1e-5;
const GRADIENT_RELATIVE_L2: f64 = 1e-5;
const FINAL_RELATIVE_L2: f64 = 3e-4;

#[test]
fn every_fixture_agrees_with_pytorch() {
    let mut folders = fixtures(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"));
    assert!(folders.len() >= 2, "tests/fixtures must hold the checked-in fixtures");
    if let Ok(more) = std::env::var("TISSERAND_FIXTURES") {
        let more = fixtures(Path::new(&more));
        assert!(!more.is_empty(), "TISSERAND_FIXTURES names a folder without fixtures");
        folders.extend(more);
    }
    let failures: Vec<String> = folders.iter().flat_map(|folder| compare(folder)).collect();
    assert!(failures.is_empty(), "out of bounds:\n{}", failures.join("\n"));
}

/// Folders with a reference run, or the folder itself.
fn fixtures(folder: &Path) -> Vec<PathBuf> {
    if folder.join("reference.safetensors").exists() {
        return vec![folder.to_owned()];
    }
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut folders: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|p| p.join("reference.safetensors").exists())
        .collect();
    folders.sort();
    folders
}

/// The reference run of a fixture.
struct Reference {
    settings: Value,
    bytes: Vec<u8>,
}

impl Reference {
    fn open(folder: &Path) -> Self {
        let settings = std::fs::read_to_string(folder.join("reference.json")).unwrap();
        let settings = serde_json::from_str(&settings).unwrap();
        Reference { settings, bytes: std::fs::read(folder.join("reference.safetensors")).unwrap() }
    }

    fn number(&self, key: &str) -> f64 {
        self.settings[key].as_f64().unwrap_or_else(|| panic!("reference.json: {key}"))
    }

    fn beta(&self, index: usize) -> f32 {
        self.settings["betas"][index].as_f64().unwrap() as f32
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    fn floats(&self, name: &str) -> Vec<f64> {
        let tensors = self.tensors();
        let view = tensors.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        view.data().chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
    }

    fn integers(&self, name: &str) -> (Vec<usize>, Vec<i64>) {
        let tensors = self.tensors();
        let view = tensors.tensor(name).unwrap();
        let values = view.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect();
        (view.shape().to_vec(), values)
    }
}

/// The micro-batch of one reference step: labels move by one inside each sequence.
fn micro_batch(ids: &[i64], labels: &[i64], batch: usize, seq_len: usize) -> MicroBatch {
    let tokens = batch * seq_len;
    let label = |t: usize| if t % seq_len + 1 == seq_len { -100 } else { labels[t + 1] as i32 };
    let labels: Vec<i32> = (0..tokens).map(label).collect();
    let mut cu_seqlens: Vec<u32> = (0..=batch).map(|b| (b * seq_len) as u32).collect();
    cu_seqlens.resize(tokens + 1, tokens as u32);
    MicroBatch {
        tokens: ids.iter().map(|&id| id as u32).collect(),
        valid_tokens: labels.iter().filter(|label| **label >= 0).count() as u64,
        labels,
        positions: (0..tokens).map(|t| (t % seq_len) as u32).collect(),
        cu_seqlens,
    }
}

fn build(folder: &Path, reference: &Reference, batch: usize, seq_len: usize) -> Box<dyn Engine> {
    let model = Transformer::new(hf_config::read(&folder.join("config.json")).unwrap());
    let config = StepConfig {
        tokens: batch * seq_len,
        micro_steps: 1,
        positions: seq_len,
        dtypes: StateDTypes { compute: DType::F32, master: DType::F32, moments: DType::F32 },
        reduce: DType::F32,
        recompute: vec![Recompute::None; model.blocks.len()],
        cross_entropy: CrossEntropyParams { z_loss: 0.0 },
        optimizer: Optimizer {
            lr: reference.number("lr"),
            betas: [0.9, 0.95],
            grad_clip: None,
            eps: reference.number("eps"),
            weight_decay: reference.number("weight_decay"),
            groups: Vec::new(),
        },
        sharding: Sharding::single(),
        cuda_graph: false,
    };
    let device = Cpu::new(2).unwrap();
    let plan = plan::train(device.caps(), &model, &config, seq_len, Workspace::None).unwrap();
    let ctx = Context::new(device.clone(), plan.arena_bytes).unwrap();
    let mut engine =
        Executor::new(ctx, model.clone(), config, Axes::single(&device), Progress::default()).unwrap();
    let weights = HfFolder::open(folder).unwrap();
    for param in model.units.iter().flat_map(|unit| unit.params()) {
        engine
            .write(
                &param.name,
                Part::Master,
                &weights.tensors.read_shaped(&param.name, &param.shape).unwrap(),
            )
            .unwrap();
    }
    Box::new(engine)
}

/// Prints every figure and returns those out of bounds.
fn compare(folder: &Path) -> Vec<String> {
    let reference = Reference::open(folder);
    let (shape, ids) = reference.integers("input_ids");
    let (_, labels) = reference.integers("labels");
    let [steps, batch, seq_len] = shape[..] else { panic!("input_ids must be [steps, batch, seq_len]") };
    let mut engine = build(folder, &reference, batch, seq_len);
    let name = folder.file_name().unwrap().to_string_lossy().into_owned();
    let mut report = Report { name, failures: Vec::new() };

    let step_batch = |step: usize| {
        let range = step * batch * seq_len..(step + 1) * batch * seq_len;
        micro_batch(&ids[range.clone()], &labels[range], batch, seq_len)
    };
    let logits = engine.logits(&step_batch(0)).unwrap();
    report.at_most(
        "logits max |difference|",
        max_difference(&logits, &reference.floats("logits")),
        LOGITS_MAX_ABS,
    );

    let (want_loss, want_norm) = (reference.floats("loss"), reference.floats("grad_norm"));
    let (mut loss_error, mut norm_error) = (0.0_f64, 0.0_f64);
    let names: Vec<String> =
        engine.model().units.iter().flat_map(|unit| unit.params()).map(|p| p.name.clone()).collect();
    for step in 0..steps {
        let batch = step_batch(step);
        let inputs = StepScalars {
            lr: reference.number("lr") as f32,
            loss_scale: 1.0 / batch.valid_tokens as f32,
            max_grad_norm: reference.number("grad_clip_norm") as f32,
            beta1: reference.beta(0),
            beta2: reference.beta(1),
            step: step as u32 + 1,
            max_skipped: 1,
            ..StepScalars::default()
        };
        engine.train(&inputs, &[batch]).unwrap();
        let scalars = engine.scalars().unwrap();
        loss_error = worst(loss_error, relative(f64::from(scalars.loss), want_loss[step]));
        norm_error = worst(norm_error, relative(f64::from(scalars.grad_norm), want_norm[step]));
        if step == 0 {
            let (error, tensor) = worst_tensor(&names, |name| {
                relative_l2(
                    &engine.read(name, Part::Gradient).unwrap(),
                    &reference.floats(&format!("grad.{name}")),
                )
            });
            report.at_most(&format!("gradient relative L2 (worst: {tensor})"), error, GRADIENT_RELATIVE_L2);
        }
    }
    report.at_most("loss of every step, relative", loss_error, LOSS_RELATIVE);
    report.at_most("gradient norm of every step, relative", norm_error, LOSS_RELATIVE);
    let (error, tensor) = worst_tensor(&names, |name| {
        relative_l2(&engine.read(name, Part::Master).unwrap(), &reference.floats(&format!("final.{name}")))
    });
    report.at_most(&format!("final weights relative L2 (worst: {tensor})"), error, FINAL_RELATIVE_L2);
    assert_eq!(engine.memory().high_water_bytes, engine.memory().capacity_bytes, "{}: plan", report.name);
    report.failures
}

struct Report {
    name: String,
    failures: Vec<String>,
}

impl Report {
    /// NaN is out of bounds.
    fn at_most(&mut self, what: &str, error: f64, bound: f64) {
        let line = format!("{}: {what}: {error:.3e} (bound {bound:.0e})", self.name);
        println!("{line}");
        if error.is_nan() || error > bound {
            self.failures.push(line);
        }
    }
}

/// The larger, NaN before all.
fn worst(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

fn worst_tensor(names: &[String], error: impl Fn(&str) -> f64) -> (f64, String) {
    let errors = names.iter().map(|name| (error(name), name.clone()));
    errors.fold((0.0, String::new()), |a, b| if worst(a.0, b.0) == a.0 && !b.0.is_nan() { a } else { b })
}

fn relative(got: f64, want: f64) -> f64 {
    (got - want).abs() / want.abs()
}

fn max_difference(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, worst)
}

fn relative_l2(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let difference: f64 = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).powi(2)).sum();
    let size: f64 = want.iter().map(|w| w * w).sum();
    if size == 0.0 { difference.sqrt() } else { (difference / size).sqrt() }
}
