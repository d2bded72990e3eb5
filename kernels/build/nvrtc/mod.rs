//! Feature `cuda`: every `cuda/*.cu` through NVRTC, as machine code for sm_80 and sm_90a and as PTX for later GPUs, and
//! `$OUT_DIR/cubins.rs`, which `src/cuda/modules.rs` includes. The same for the kernels of `tests/cuda/instructions`, which
//! prove the instruction layer, and `instructions.rs`. Nothing of CUDA is needed but libnvrtc: no headers, no
//! host compiler, no GPU. See docs/cuda-build.md.

mod accepted;
mod compile;
mod image;
mod library;
mod locate;
mod log;
mod table;

use std::fs;
use std::path::{Path, PathBuf};

use accepted::Finding;
use compile::{Family, Output};
use library::{Nvrtc, Target};

/// Machine code of A100 and of H100 and H200, and PTX that any later GPU's driver compiles.
const TARGETS: [Target; 3] = [Target::Cubin("sm_80"), Target::Cubin("sm_90a"), Target::Ptx("compute_80")];

/// The version for which `cuda/accepted.txt` is complete: that of `cuda/toolchain.sh`.
const PINNED: (u32, u32) = (12, 4);

/// Kernels of tests.
const INSTRUCTIONS: &str = "tests/cuda/instructions";

pub(crate) fn build() {
    println!("cargo::rerun-if-changed=cuda");
    println!("cargo::rerun-if-changed={INSTRUCTIONS}");
    let result = if is_lint() { no_images() } else { compile_all() };
    if let Err(message) = result {
        for line in message.lines().filter(|line| !line.is_empty()) {
            println!("cargo::error={line}");
        }
        std::process::exit(1);
    }
}

/// Clippy builds for itself, and looks at the Rust around the images only.
fn is_lint() -> bool {
    std::env::var("RUSTC_WORKSPACE_WRAPPER").is_ok_and(|wrapper| wrapper.ends_with("clippy-driver"))
}

fn no_images() -> Result<(), String> {
    println!("cargo::rustc-env=TISSERAND_NVRTC_VERSION=none");
    table::TABLES.iter().try_for_each(|table| table::write(&out(), table, table::EMPTY))
}

fn out() -> PathBuf {
    PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"))
}

fn compile_all() -> Result<(), String> {
    let nvrtc = locate::nvrtc(Path::new("cuda/toolchain.sh"))?;
    println!("cargo::rustc-env=TISSERAND_NVRTC_VERSION={}.{}", nvrtc.version.0, nvrtc.version.1);
    let cuda = Path::new("cuda");
    let mut families = compile::families(cuda, &[])?;
    let num_ours = families.len();
    families.extend(compile::families(Path::new(INSTRUCTIONS), &[cuda])?);
    let outputs = compile::compile(&nvrtc, &families, &TARGETS, &out())?;
    check(&nvrtc, &families, &outputs)?;
    let ((ours, of_tests), (outputs, outputs_of_tests)) =
        (families.split_at(num_ours), outputs.split_at(num_ours));
    let [cubins, instructions] = table::TABLES;
    table::write(&out(), cubins, &table::cubins(ours, outputs)?)?;
    table::write(&out(), instructions, &table::cubins(of_tests, outputs_of_tests)?)
}

/// With the pinned NVRTC, refuses what ptxas reports and `cuda/accepted.txt` does not list, and what the list has and
/// ptxas does not report. Every other version allocates registers in its own way: what it reports is a warning.
fn check(nvrtc: &Nvrtc, families: &[Family], outputs: &[Vec<Output>]) -> Result<(), String> {
    let mut findings: Vec<Finding> = Vec::new();
    for (family, outputs) in families.iter().zip(outputs) {
        for (output, target) in outputs.iter().zip(TARGETS) {
            for warning in &output.report.warnings {
                println!("cargo::warning={}: {warning}", family.name);
            }
            findings.extend(accepted::findings(&output.report, target.architecture()));
        }
    }
    let list =
        fs::read_to_string("cuda/accepted.txt").map_err(|e| format!("kernels/cuda/accepted.txt: {e}"))?;
    let accepted = accepted::parse(&list).map_err(|e| format!("kernels/cuda/accepted.txt, {e}"))?;
    let mut errors = accepted::unlisted(&findings, &accepted);
    if nvrtc.version != PINNED {
        let (major, minor) = nvrtc.version;
        for line in errors {
            println!("cargo::warning=NVRTC {major}.{minor}: {line}");
        }
        return Ok(());
    }
    if !errors.is_empty() {
        errors
            .push("hint: mend the kernel, or list it with a reason in kernels/cuda/accepted.txt".to_owned());
    }
    let stale = accepted::stale(&findings, &accepted);
    errors.extend(stale.into_iter().map(|line| format!("kernels/cuda/accepted.txt, {line}")));
    if errors.is_empty() { Ok(()) } else { Err(errors.join("\n")) }
}
