//! Tells the program which commit and which compiler it was built from, for records of what was run.
//!
//! The commit is `TISSERAND_GIT_COMMIT` where the variable is set (a build from an archive knows no git), else what
//! `git describe` says. Builds for development do not ask: they would be made again after every commit.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=TISSERAND_GIT_COMMIT");
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let given = std::env::var("TISSERAND_GIT_COMMIT").ok().filter(|commit| !commit.is_empty());
    let described = || if is_release { described() } else { None };
    if let Some(commit) = given.or_else(described) {
        println!("cargo:rustc-env=TISSERAND_GIT_COMMIT={commit}");
    }
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    if let Some(version) = said(Command::new(rustc).arg("--version")) {
        println!("cargo:rustc-env=TISSERAND_RUSTC={version}");
    }
}

/// The commit of this source tree; "-dirty" behind it if files differ from it.
fn described() -> Option<String> {
    let git = |arguments: &[&str]| said(Command::new("git").args(arguments));
    let described = git(&["describe", "--always", "--dirty", "--abbrev=12"])?;
    let folder = git(&["rev-parse", "--git-dir"])?;
    // Every commit and checkout is a line there. Sources decide whether the tree is dirty.
    println!("cargo:rerun-if-changed={}", Path::new(&folder).join("logs/HEAD").display());
    for sources in ["../kernels", "../collectives/src", "src", "../launch/src", "../Cargo.lock"] {
        println!("cargo:rerun-if-changed={sources}");
    }
    Some(described)
}

/// The first line of what a command prints; `None` if it fails.
fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}
