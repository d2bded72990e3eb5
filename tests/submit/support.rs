//! A folder with a run file, in which the binary is called.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// Half a gigabyte of weights: fits every GPU, and its checkpoints every quota.
const RUN_FILE: &str = r#"config_version = 1
[run]
name = "weave"
device = "cuda"
[model]
vocab_size = 32000
hidden_size = 1024
intermediate_size = 2816
num_layers = 12
num_heads = 16
[data]
sources = [{ path = "tokens" }]
[training]
seq_len = 1024
global_batch = 1024
steps = 1000
[optimizer]
lr = 1e-3
[mesh]
zero = 3
[precision]
compute = "bf16"
[checkpoint]
every_steps = 100
"#;

pub(crate) struct Sandbox(TempDir);

impl Sandbox {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("run.toml"), RUN_FILE).unwrap();
        Sandbox(dir)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `submit run.toml` with these arguments.
    pub(crate) fn submit(&self, arguments: &[&str]) -> Output {
        let mut command = self.command();
        command.args(["submit", "run.toml"]).args(arguments).output().unwrap()
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tisserand"));
        command.current_dir(self.0.path());
        for variable in ["WORK", "STORE", "SCRATCH"] {
            command.env_remove(variable);
        }
        command
    }

    /// The script that these arguments print, with the sandbox called `/path/to/work`.
    pub(crate) fn script(&self, arguments: &[&str]) -> String {
        let output = self.submit(&[arguments, &["--dry-run"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let here = self.0.path().canonicalize().unwrap();
        let text =
            text.replace(here.to_str().unwrap(), PLACE).replace(self.0.path().to_str().unwrap(), PLACE);
        text.lines().map(|line| aligned(line) + "\n").collect()
    }
}

/// What stands for the sandbox's folder in scripts.
const PLACE: &str = "/path/to/work";

/// A line that holds the folder, with its reason where it stands if the folder is short.
fn aligned(line: &str) -> String {
    match line.split_once("  # ") {
        Some((option, reason)) if line.contains(PLACE) => format!("{:<48}  # {reason}", option.trim_end()),
        _ => line.to_owned(),
    }
}

/// Of this repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
