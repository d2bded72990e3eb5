//! Checkpoints from outside: what is written can be read, on any layout; damage is found and named; no bytes
//! make a reader panic.

mod damage;
mod finding;
mod hostile;
mod round_trip;

use std::path::Path;

use tisserand_kernels::DType;
use tisserand_kernels::testing::{cast, normal_f64};
use tisserand_runtime::checkpoint::*;

/// The tensors of a small model.
pub(crate) const SHAPES: [(&str, &[usize]); 4] =
    [("model.embed", &[7, 5]), ("model.norm", &[5]), ("lm_head", &[7, 5]), ("model.scale", &[])];

/// Numbers of a tensor, exact in every dtype.
pub(crate) fn values(name: &str, seed: u64, shape: &[usize]) -> Vec<f32> {
    let seed = name.bytes().fold(seed, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    cast(&normal_f64(seed, shape.iter().product()))
}

pub(crate) fn bytes_of(values: &[f32], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F32 => bytemuck::cast_slice(values).to_vec(),
        _ => values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect(),
    }
}

pub(crate) fn tensor(name: &str, shape: &[usize], dtype: DType, seed: u64) -> TensorData {
    TensorData::whole(TensorSpec::new(name, shape, dtype), bytes_of(&values(name, seed, shape), dtype))
}

pub(crate) fn snapshot(weights_dtype: DType, seed: u64) -> Snapshot {
    let weights = SHAPES.map(|(name, shape)| tensor(name, shape, weights_dtype, seed)).to_vec();
    let state =
        |kind: &str| SHAPES.map(|(name, shape)| tensor(&format!("{kind}.{name}"), shape, DType::F32, seed));
    let optimizer = ["master", "exp_avg", "exp_avg_sq"].iter().flat_map(|kind| state(kind)).collect();
    Snapshot { weights, optimizer }
}

pub(crate) fn documents(step: u64) -> Documents {
    let trainer = TrainerState {
        step,
        consumed_samples: step * 8,
        consumed_tokens: step * 1000,
        elapsed_seconds: 0.1 + 0.2,
        ..TrainerState::default()
    };
    let config_json = r#"{"model_type":"llama","torch_dtype":"float32"}"#.into();
    Documents { trainer, config_json, tokenizer: None, mesh: MeshAxes::default() }
}

pub(crate) fn options(max_file_bytes: u64, optimizer_files: usize, threads: usize) -> SaveOptions {
    SaveOptions { max_file_bytes, optimizer_files, threads, ..SaveOptions::default() }
}

/// A job of `RUN/checkpoints`.
pub(crate) fn job(checkpoints_dir: &Path, step: u64, seed: u64) -> SaveJob {
    SaveJob {
        crew: Crew::default(),
        checkpoints_dir: checkpoints_dir.into(),
        snapshot: snapshot(DType::Bf16, seed),
        documents: documents(step),
        options: options(100, 2, 2),
        retention: None,
    }
}
