//! The kernels through the host's C++ compiler, with the emulator that runs them.
//!
//! Every kernel is compiled for warps of 32, and those that do not use tensor cores for warps of 64 too. With
//! `TISSERAND_ASAN=1` all of it is instrumented for AddressSanitizer.

use std::path::{Path, PathBuf};

/// Families whose fragments are those of warps of 32.
const TENSOR_CORES: [&str; 2] = ["gemm", "attention"];

/// Files of a folder with this extension, sorted.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    println!("cargo:rerun-if-changed={folder}");
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{folder}: {e}"));
    let paths = entries.map(|entry| entry.unwrap_or_else(|e| panic!("{folder}: {e}")).path());
    let mut found: Vec<PathBuf> = paths.filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
    found.sort();
    found
}

/// Settings that all sources share: products and sums are never contracted, as on the GPU.
fn compiler() -> cc::Build {
    println!("cargo:rerun-if-env-changed=TISSERAND_ASAN");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(2).debug(true).warnings(true).extra_warnings(true);
    build.flag("-ffp-contract=off").flag("-fno-strict-aliasing").flag("-fno-exceptions").flag("-fno-rtti");
    if std::env::var("TISSERAND_ASAN").is_ok_and(|on| on == "1") {
        build.flag("-fsanitize=address").flag("-fno-omit-frame-pointer");
    }
    build
}

fn kernels(name: &str, warp: u32, sources: &[PathBuf]) {
    let mut build = compiler();
    build.define("WARP_SIZE", warp.to_string().as_str()).include("cuda");
    for source in sources {
        // The compiler must be told what a .cu file is.
        let wrapper = Path::new(&std::env::var("OUT_DIR").expect("cargo sets OUT_DIR"))
            .join(format!("{}_{warp}.cpp", source.file_stem().unwrap_or_default().to_string_lossy()));
        let absolute = std::fs::canonicalize(source).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
        let text = format!("#include \"{}\"\n", absolute.display());
        std::fs::write(&wrapper, text).unwrap_or_else(|e| panic!("{}: {e}", wrapper.display()));
        build.file(wrapper);
    }
    // Nothing refers to a kernel but its own registration.
    build.link_lib_modifier("+whole-archive").compile(name);
}

/// Compiles and links everything.
pub(crate) fn build() {
    files("cuda/isa", "cuh");
    files("cuda", "cuh");
    let sources = files("cuda", "cu");
    kernels("tisserand_kernels_warp32", 32, &sources);
    let uses_tensor_cores = |source: &PathBuf| {
        source.file_stem().is_some_and(|stem| TENSOR_CORES.iter().any(|family| stem == *family))
    };
    let plain: Vec<PathBuf> = sources.into_iter().filter(|source| !uses_tensor_cores(source)).collect();
    kernels("tisserand_kernels_warp64", 64, &plain);
    let mut emulator = compiler();
    emulator.files(files("emulator", "cpp"));
    files("emulator", "h");
    emulator.link_lib_modifier("+whole-archive").compile("tisserand_emulator");
}
