//! The repository's own rules: dependency order, the README's file tree, where `unsafe` and `asm` may stand, and how
//! wide documents are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every file below `dir` with this extension, without build outputs and run folders.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && !["target", "runs"].contains(&name.as_str()) {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

#[test]
fn crates_depend_downward_only() {
    let order = ["kernels", "collectives", "runtime", "launch"];
    for (i, name) in order.iter().enumerate() {
        let manifest = read(&root().join(name).join("Cargo.toml"));
        for above in &order[i..] {
            let dependency = format!("tisserand-{above}.workspace");
            assert!(!manifest.contains(&dependency), "{name} must not depend on {above}");
        }
    }
}

#[test]
fn the_readme_shows_every_top_level_folder_and_no_other() {
    let readme = read(&root().join("README.md"));
    let tree = readme.split("```text\n").nth(1).expect("README.md has a file tree in a ```text block");
    let tree = tree.split("```").next().unwrap();
    let shown: BTreeSet<String> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(|name| name.trim_end_matches('/').to_owned())
        .collect();
    let tracked =
        std::fs::read_dir(root()).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
    let ignored = [".git", ".ci", ".gitignore", "target", "runs", "Cargo.lock", "rustfmt.toml"];
    let present: BTreeSet<String> = tracked.filter(|name| !ignored.contains(&name.as_str())).collect();
    let missing: Vec<_> = present.difference(&shown).collect();
    assert!(missing.is_empty(), "README.md's tree lacks {missing:?}");
    for name in &shown {
        assert!(root().join(name).exists(), "README.md's tree shows {name}, which does not exist");
    }
}

#[test]
fn unsafe_code_stands_only_where_the_design_allows_it() {
    let allowed = [
        "kernels/build/nvrtc/library.rs",
        "kernels/src/arena/",
        "kernels/src/cpu/simd",
        "kernels/src/cuda/driver/",
        "collectives/src/end_process.rs",
        "collectives/src/mpi/",
        "collectives/src/nccl/library/",
        "runtime/src/data/",
        "tests/allocations.rs",
    ];
    let word = ["un", "safe "].concat();
    for path in files(root(), "rs") {
        let name = relative(&path);
        if allowed.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let code = read(&path);
        let line = code.lines().position(|line| {
            let code = line.split("//").next().unwrap();
            code.contains(&word) && !code.contains('"')
        });
        assert!(line.is_none(), "{name}:{}: {word}outside the allowed modules", line.unwrap_or(0) + 1);
    }
}

#[test]
fn every_source_file_says_what_it_holds() {
    for path in files(root(), "rs") {
        let first = read(&path).lines().next().unwrap_or_default().to_owned();
        assert!(first.starts_with("//!"), "{}: the first line must be a //! comment", relative(&path));
    }
}

#[test]
fn links_in_documents_lead_somewhere() {
    for path in files(root(), "md") {
        let text = read(&path);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            let file = path.parent().unwrap().join(file);
            assert!(file.exists(), "{}: link to {target}", relative(&path));
        }
    }
}

/// Tables and code are as wide as they are, and so is the log of benchmarks, which keeps what was once written.
#[test]
fn prose_of_documents_is_at_most_120_columns_wide() {
    for path in files(root(), "md").into_iter().filter(|path| relative(path) != "benches/LOG.md") {
        let mut is_code = false;
        for (number, line) in (1..).zip(read(&path).lines()) {
            let start = line.trim_start();
            is_code ^= start.starts_with("```");
            let columns = line.chars().count();
            assert!(
                is_code || start.starts_with('|') || columns <= 120,
                "{}:{number}: {columns} columns of prose; hint: 120 at most",
                relative(&path)
            );
        }
    }
}
