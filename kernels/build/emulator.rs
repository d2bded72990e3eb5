//! The kernels through the host's C++ compiler, with the emulator that runs them and the kernels that prove it.
//!
//! Every kernel is compiled for warps of 32, and those that do not use tensor cores for warps of 64 too. With
//! `TISSERAND_ASAN=1` all of it is instrumented for AddressSanitizer. With `TISSERAND_EMULATOR_LIBRARY=FOLDER` nothing is
//! compiled: programs load `libtisserand_emulated.so` from there, so that one test program runs many altered kernels.

use std::path::{Path, PathBuf};

use super::sources::{FLAGS, files, warps, wrapper};

fn is_set(variable: &str) -> Option<String> {
    println!("cargo:rerun-if-env-changed={variable}");
    std::env::var(variable).ok().filter(|value| !value.is_empty())
}

fn compiler(asan: bool) -> cc::Build {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(2).debug(true).warnings(true).extra_warnings(true);
    build.flags(FLAGS).include("cuda");
    if asan {
        build.flag("-fsanitize=address").flag("-fno-omit-frame-pointer");
    }
    build
}

/// Compiles and links everything.
pub(crate) fn build() {
    if let Some(folder) = is_set("TISSERAND_EMULATOR_LIBRARY") {
        println!("cargo:rustc-link-search=native={folder}");
        println!("cargo:rustc-link-lib=dylib=tisserand_emulated");
        return;
    }
    let asan = is_set("TISSERAND_ASAN").is_some_and(|on| on == "1");
    if asan {
        // Before all other libraries: its runtime must be the first to be loaded.
        println!("cargo:rustc-link-lib=dylib=asan");
        println!("cargo:rustc-cfg=tisserand_asan");
    }
    for folder in ["cuda", "cuda/isa", "emulator", "emulator/proofs", "tests/cuda/instructions"] {
        println!("cargo:rerun-if-changed={folder}");
    }
    let out = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets OUT_DIR"));
    let mut build = compiler(asan);
    let folders = ["cuda", "emulator/proofs", "tests/cuda/instructions"];
    let sources = folders.map(|folder| files(Path::new(folder), "cu"));
    for source in sources.iter().flatten() {
        for warp in warps(source) {
            build.file(wrapper(source, *warp, &out));
        }
    }
    build.files(files(Path::new("emulator"), "cpp"));
    // Nothing refers to a kernel but its own registration.
    build.link_lib_modifier("+whole-archive").compile("tisserand_emulated");
}
