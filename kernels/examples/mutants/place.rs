//! Sources of kernels, which of them a change reaches, and which tests it concerns.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::mutate::{Change, changes};
use super::sources;
use super::tokens::Source;

/// A changed kernel.
#[derive(Clone)]
pub(crate) struct Mutant {
    /// The source's name in `kernels/cuda`.
    pub(crate) file: String,
    pub(crate) family: String,
    pub(crate) line: usize,
    pub(crate) change: Change,
    /// What stood there.
    pub(crate) before: String,
}

/// The kernels as they are.
pub(crate) struct Kernels {
    folder: PathBuf,
    /// Names and sources of `.cu` and `.cuh` files.
    sources: Vec<(String, Source)>,
}

impl Kernels {
    pub(crate) fn read(folder: &Path) -> Self {
        let paths = ["cu", "cuh"].map(|extension| sources::files(folder, extension)).concat();
        let read = |path: PathBuf| {
            let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            (path.file_name().unwrap_or_default().to_string_lossy().into_owned(), Source::new(text))
        };
        Kernels { folder: folder.into(), sources: paths.into_iter().map(read).collect() }
    }

    pub(crate) fn text(&self, file: &str) -> &str {
        &self.source(file).text
    }

    fn source(&self, file: &str) -> &Source {
        &self.sources.iter().find(|(name, _)| name == file).expect("a source of this folder").1
    }

    /// Names of the `.cu` files.
    fn units(&self) -> impl Iterator<Item = &str> {
        self.sources.iter().map(|(name, _)| name.as_str()).filter(|name| name.ends_with(".cu"))
    }

    /// Paths of the `.cu` files.
    pub(crate) fn unit_paths(&self) -> Vec<PathBuf> {
        self.units().map(|name| self.folder.join(name)).collect()
    }

    fn includes(&self, file: &str) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        let mut open = vec![file];
        while let Some(file) = open.pop() {
            let lines = self.source(file).text.lines();
            let named = lines.filter_map(|line| line.strip_prefix("#include \"")?.strip_suffix('"'));
            for (name, _) in named.filter_map(|name| self.sources.iter().find(|(file, _)| file == name)) {
                if found.insert(name.as_str()) {
                    open.push(name);
                }
            }
        }
        found
    }

    /// The `.cu` files that a file is part of, the quickest first.
    pub(crate) fn units_of(&self, file: &str) -> Vec<&str> {
        let mut units: Vec<&str> =
            self.units().filter(|unit| *unit == file || self.includes(unit).contains(file)).collect();
        units.sort_by_key(|unit| rank(unit));
        units
    }

    /// The family of a file: that of its name, or `shared` for what several of them include.
    fn family(&self, file: &str) -> String {
        let families: BTreeSet<&str> = self.units_of(file).iter().map(|unit| family_of_unit(unit)).collect();
        let only = (families.len() == 1).then(|| families.first().map_or("", |family| family).to_owned());
        only.unwrap_or_else(|| "shared".into())
    }

    /// Every mutant that the sources offer.
    pub(crate) fn mutants(&self) -> Vec<Mutant> {
        let of_file = |(file, source): &(String, Source)| {
            let family = self.family(file);
            let mutant = |change: Change| Mutant {
                file: file.clone(),
                family: family.clone(),
                line: source.line(change.range.start),
                before: source.text[change.range.clone()].to_owned(),
                change,
            };
            changes(source).into_iter().map(mutant).collect::<Vec<_>>()
        };
        let used = self.sources.iter().filter(|(file, _)| !self.units_of(file).is_empty());
        used.flat_map(of_file).collect()
    }
}

/// Families, which are modules of the test program; those that compile and test slowly are the last.
const FAMILIES: [&str; 14] = [
    "elementwise",
    "combine",
    "sums",
    "swiglu",
    "rope",
    "rms_norm",
    "philox",
    "step_scalars",
    "grad_norm",
    "adamw",
    "embedding",
    "cross_entropy",
    "attention",
    "gemm",
];

/// `gemm_f32.cu` is of the family of `gemm.cu`.
///
/// # Panics
/// If there is no such family.
pub(crate) fn family_of_unit(unit: &str) -> &'static str {
    FAMILIES[rank(unit)]
}

fn rank(unit: &str) -> usize {
    let found = FAMILIES.iter().position(|family| unit.starts_with(family));
    found.unwrap_or_else(|| panic!("{unit} is of no family that is known here"))
}
