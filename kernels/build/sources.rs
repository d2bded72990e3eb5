//! What the emulator is made of, and how it is compiled: for the build script, and for those who compile altered
//! kernels (`examples/mutants`).

use std::path::{Path, PathBuf};

/// Families whose fragments are those of warps of 32.
const TENSOR_CORES: [&str; 2] = ["gemm", "attention"];

/// Beside warnings. Products and sums are never contracted, as on the GPU; variables that nobody has set have a value
/// that shows; those of a host thread are reached without a call, also in a library.
pub(crate) const FLAGS: [&str; 6] = [
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-fno-exceptions",
    "-fno-rtti",
    "-ftrivial-auto-var-init=pattern",
    "-ftls-model=initial-exec",
];

/// Files of a folder with this extension, sorted.
pub(crate) fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let paths = entries.map(|entry| entry.unwrap_or_else(|e| panic!("{}: {e}", folder.display())).path());
    let mut found: Vec<PathBuf> = paths.filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
    found.sort();
    found
}

/// The sizes of warps that a source is compiled for.
pub(crate) fn warps(source: &Path) -> &'static [u32] {
    let uses_tensor_cores =
        source.file_stem().is_some_and(|stem| TENSOR_CORES.iter().any(|family| stem == *family));
    if uses_tensor_cores { &[32] } else { &[32, 64] }
}

/// A file that compiles `source` for warps of this size: a compiler must be told what a .cu file is.
pub(crate) fn wrapper(source: &Path, warp: u32, folder: &Path) -> PathBuf {
    let stem = source.file_stem().unwrap_or_default().to_string_lossy();
    let path = folder.join(format!("{stem}_{warp}.cpp"));
    let absolute = std::fs::canonicalize(source).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
    let text = format!("#define WARP_SIZE {warp}\n#include \"{}\"\n", absolute.display());
    std::fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    path
}
