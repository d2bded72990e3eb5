//! `tisserand checkpoint`

use std::path::Path;

use tisserand_kernels::DType;
use tisserand_runtime::{Error, Result, checkpoint};

use super::{DONE, FAILED};
use crate::{cli, output};

/// Looks at, checks, compares and converts checkpoints.
pub(super) fn run(command: cli::Checkpoint) -> Result<u8> {
    match command {
        cli::Checkpoint::Inspect { dir, json } => {
            warn(&[&dir])?;
            let summary = checkpoint::inspect(&dir)?;
            if json {
                let text = serde_json::to_string(&summary)
                    .map_err(|error| Error::fault(format!("cannot print the summary: {error}")))?;
                output::line(&text)?;
            } else {
                output::line(&summary.to_string())?;
            }
            Ok(DONE)
        }
        cli::Checkpoint::Verify { dir } => {
            let report = checkpoint::verify(&dir)?;
            output::line(&report.to_string())?;
            Ok(if report.is_ok() { DONE } else { FAILED })
        }
        cli::Checkpoint::Diff { a, b } => {
            warn(&[&a, &b])?;
            let differences = checkpoint::diff(&a, &b)?;
            for difference in differences.iter().filter(|difference| !difference.bit_equal()) {
                output::line(&difference.to_string())?;
            }
            let equal = differences.iter().filter(|difference| difference.bit_equal()).count();
            output::line(&format!("{equal} of {} tensors are bit-equal", differences.len()))?;
            Ok(if equal == differences.len() { DONE } else { FAILED })
        }
        cli::Checkpoint::Digest { dir } => {
            warn(&[&dir])?;
            output::line(&checkpoint::digest(&dir)?)?;
            Ok(DONE)
        }
        cli::Checkpoint::Export { dir, out, dtype } => {
            let dtype = match dtype.as_str() {
                "f32" => DType::F32,
                "bf16" => DType::Bf16,
                other => return Err(Error::input(format!("--dtype {other}: must be f32 or bf16"))),
            };
            warn(&[&dir])?;
            checkpoint::export_hf(&dir, &out, dtype)?;
            output::line(&format!("{}: written", out.display()))?;
            Ok(DONE)
        }
    }
}

/// Says where an older checkpoint stands for a damaged one.
fn warn(folders: &[&Path]) -> Result<()> {
    for folder in folders {
        checkpoint::resolve(folder)?.warning.iter().for_each(|warning| eprintln!("warning: {warning}"));
    }
    Ok(())
}
