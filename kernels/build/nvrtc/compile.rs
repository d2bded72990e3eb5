//! Compiles all sources for all targets, on several threads. Outputs are kept in `OUT_DIR` with a key of everything
//! that they are made of, so that a change of one source compiles one source.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::library::{Compiled, Nvrtc, Target};
use super::log::{self, Report};

/// Never contract a product and a sum, as on the CPU; report resources. Paths in messages and in line tables are relative
/// to `kernels/`. With `TISSERAND_LINEINFO=1` the profiler and compute-sanitizer know lines, and images are three times as
/// large.
fn options() -> Vec<String> {
    println!("cargo::rerun-if-env-changed=TISSERAND_LINEINFO");
    let mut options =
        ["--std=c++17", "--fmad=false", "-Icuda", "--ptxas-options=-v"].map(str::to_owned).to_vec();
    if std::env::var("TISSERAND_LINEINFO").is_ok_and(|on| on == "1") {
        options.push("-lineinfo".to_owned());
    }
    options
}

/// One `.cu` file.
pub(crate) struct Family {
    pub(crate) name: String,
    /// Relative to `kernels/`.
    pub(crate) path: String,
    source: String,
    /// Of the source and of every header.
    key: u64,
}

/// A family for one target.
pub(crate) struct Output {
    /// Name of the image in `OUT_DIR`.
    pub(crate) file: String,
    pub(crate) image: Vec<u8>,
    pub(crate) report: Report,
}

/// The sources of a folder, by name. `headers` are the folders of what they may include.
pub(crate) fn families(folder: &Path, headers: &[&Path]) -> Result<Vec<Family>, String> {
    let mut files = Vec::new();
    for folder in headers.iter().chain([&folder]) {
        walk(folder, &mut files).map_err(|e| format!("kernels/{}: {e}", folder.display()))?;
    }
    files.sort();
    files.dedup();
    let texts: Result<Vec<String>, _> = files.iter().map(fs::read_to_string).collect();
    let texts = texts.map_err(|e| format!("kernels/{}: {e}", folder.display()))?;
    let has_extension = |path: &Path, wanted: &str| path.extension().is_some_and(|found| found == wanted);
    let mut headers_key = DefaultHasher::new();
    for (path, text) in files.iter().zip(&texts).filter(|(path, _)| has_extension(path, "cuh")) {
        (path, text).hash(&mut headers_key);
    }
    let sources = files.iter().zip(&texts);
    let sources = sources.filter(|(path, _)| has_extension(path, "cu") && path.starts_with(folder));
    Ok(sources
        .map(|(path, text)| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let mut key = headers_key.clone();
            (&name, text).hash(&mut key);
            Family { name, path: path.display().to_string(), source: text.clone(), key: key.finish() }
        })
        .collect())
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "cu" || extension == "cuh") {
            files.push(path);
        }
    }
    Ok(())
}

/// The outputs of every family, in the order of `targets`.
pub(crate) fn compile(
    nvrtc: &Nvrtc,
    families: &[Family],
    targets: &[Target],
    out: &Path,
) -> Result<Vec<Vec<Output>>, String> {
    let options = options();
    let mut jobs: Vec<usize> = (0..families.len() * targets.len()).collect();
    // The longest source first, so that none begins when the others end.
    jobs.sort_by_key(|job| std::cmp::Reverse(families[job / targets.len()].source.len()));
    let results: Vec<Mutex<Option<Result<Output, String>>>> = jobs.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..num_threads().min(jobs.len()) {
            scope.spawn(|| {
                while let Some(&job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (family, target) = (&families[job / targets.len()], targets[job % targets.len()]);
                    let result = compile_one(nvrtc, family, target, &options, out);
                    *results[job].lock().expect("no compilation panics") = Some(result);
                }
            });
        }
    });
    let mut results = results.into_iter().map(|slot| {
        slot.into_inner().expect("no compilation panics").expect("every job was taken by one of the threads")
    });
    families.iter().map(|_| results.by_ref().take(targets.len()).collect()).collect()
}

/// As many as cargo lets a build script use.
fn num_threads() -> usize {
    std::env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1).max(1)
}

fn compile_one(
    nvrtc: &Nvrtc,
    family: &Family,
    target: Target,
    options: &[String],
    out: &Path,
) -> Result<Output, String> {
    let architecture = target.architecture();
    let file = match target {
        Target::Cubin(_) => format!("{}.{architecture}.cubin", family.name),
        Target::Ptx(_) => format!("{}.{architecture}.ptx", family.name),
    };
    let mut key = DefaultHasher::new();
    (family.key, nvrtc.version, options).hash(&mut key);
    let key = format!("{:016x}\n", key.finish());
    let (image_path, log_path) = (out.join(&file), out.join(format!("{file}.log")));
    if let (Ok(image), Ok(log)) = (fs::read(&image_path), fs::read_to_string(&log_path))
        && let Some(log) = log.strip_prefix(&key)
    {
        return Ok(Output { file, image, report: log::parse(log) });
    }
    let name = family.path.as_str();
    let Compiled { image, log } = nvrtc
        .compile(name, &family.source, target, options)
        .map_err(|log| format!("{name} for {architecture}, paths relative to kernels/:\n{log}"))?;
    // The log is written last: it is what makes the image count.
    let kept = fs::write(&log_path, "").and_then(|()| fs::write(&image_path, &image));
    let kept = kept.and_then(|()| fs::write(&log_path, format!("{key}{log}")));
    kept.map_err(|e| format!("{}: {e}", out.display()))?;
    Ok(Output { file, image, report: log::parse(&log) })
}
