//! Where NVRTC is. What is asked for by name is used or refused; of the places that merely may have one, the first that
//! has one that is new enough.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::library::Nvrtc;

/// The oldest version that knows everything the kernels use (PTX ISA 8.4).
const OLDEST: (u32, u32) = (12, 4);

const TOO_OLD: &str = "too old";

const HINT: &str = "run kernels/cuda/toolchain.sh, which installs one without root, or set CUDA_HOME to a CUDA 12.4 or \
    newer, or TISSERAND_NVRTC to libnvrtc or its folder; without the feature `cuda` none is needed";

/// A loaded NVRTC, or one line that says what to do. In this order: `TISSERAND_NVRTC` and nothing else if it is set,
/// `CUDA_HOME`, what `toolchain` has installed, what the loader finds.
pub(crate) fn nvrtc(toolchain: &Path) -> Result<Nvrtc, String> {
    if let Some(path) = variable("TISSERAND_NVRTC") {
        return load(&path).map_err(|e| format!("TISSERAND_NVRTC={}: {e}", path.display()));
    }
    let mut tried = Vec::new();
    if let Some(home) = variable("CUDA_HOME") {
        let found = folders_of(&home).into_iter().find_map(|folder| library_in(&folder));
        match found.ok_or("no libnvrtc".to_owned()).and_then(|library| load(&library)) {
            Ok(nvrtc) => return Ok(nvrtc),
            Err(e) => {
                let reason = format!("CUDA_HOME={}: {e}", home.display());
                println!("cargo::warning={reason}; looking elsewhere");
                tried.push(reason);
            }
        }
    }
    variable("XDG_CACHE_HOME");
    if let Some(folder) = installed(toolchain) {
        return load(&folder).map_err(|e| format!("{}: {e}; hint: remove that folder", folder.display()));
    }
    variable("LD_LIBRARY_PATH");
    for name in ["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"] {
        match load(Path::new(name)) {
            Ok(nvrtc) => return Ok(nvrtc),
            Err(e) if e.ends_with(TOO_OLD) => tried.push(e),
            Err(_) => {}
        }
    }
    let tried = tried.iter().map(|reason| format!(", {reason}")).collect::<String>();
    Err(format!("no NVRTC {}.{} or newer found{tried}; hint: {HINT}", OLDEST.0, OLDEST.1))
}

/// A library, or the newest one of a folder.
fn load(path: &Path) -> Result<Nvrtc, String> {
    let library = if path.is_dir() { library_in(path).ok_or("no libnvrtc")? } else { path.to_owned() };
    let nvrtc = Nvrtc::load(&library)?;
    if nvrtc.version < OLDEST {
        let (major, minor) = nvrtc.version;
        return Err(format!("{} is {major}.{minor}, {TOO_OLD}", library.display()));
    }
    Ok(nvrtc)
}

fn folders_of(home: &Path) -> Vec<PathBuf> {
    let mut folders = vec![home.join("lib64"), home.join("lib")];
    let targets = fs::read_dir(home.join("targets")).into_iter().flatten().flatten();
    folders.extend(targets.map(|target| target.path().join("lib")));
    folders
}

/// The library of a folder with the greatest version in its name.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let versions = fs::read_dir(folder).ok()?.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let numbers: Result<Vec<u32>, _> =
            name.strip_prefix("libnvrtc.so.")?.split('.').map(str::parse).collect();
        Some((numbers.ok()?, entry.path()))
    });
    versions.max().map(|(_, path)| path)
}

/// The folder that the script has installed, if it has.
fn installed(toolchain: &Path) -> Option<PathBuf> {
    let mut script = Command::new("sh");
    // CUDA_HOME has had its turn.
    let output = script.arg(toolchain).arg("--installed").env_remove("CUDA_HOME").output().ok()?;
    let folder = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(folder.trim_end()))
}

/// An environment variable on which the build depends from now on.
fn variable(name: &str) -> Option<PathBuf> {
    println!("cargo::rerun-if-env-changed={name}");
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
