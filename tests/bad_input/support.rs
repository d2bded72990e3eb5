//! A tiny model, its data and a finished run, shared by all cases; and the checks that every case passes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

/// A run file that trains two steps in a fraction of a second; `{w}` is the folder of the shared inputs.
const RUN_FILE: &str = r#"config_version = 1
[run]
name = "tiny"
dir = "run"
threads = 1
[model]
vocab_size = 320
hidden_size = 16
intermediate_size = 32
num_layers = 1
num_heads = 2
[tokenizer]
path = "{w}/tokenizer.json"
[data]
sources = [{ path = "{w}/tokens" }]
[training]
seq_len = 16
global_batch = 2
steps = 2
[optimizer]
lr = 1e-3
[checkpoint]
every_steps = 1
"#;

/// One mistake of a user.
pub(crate) struct Case {
    /// What is wrong.
    pub(crate) name: &'static str,
    /// Makes the mistake in a fresh sandbox.
    pub(crate) prepare: fn(&Sandbox),
    /// Arguments; `{w}` as in the run file.
    pub(crate) args: &'static [&'static str],
    /// What the line must contain: the file, key or value, and what to do.
    pub(crate) expected: &'static [&'static str],
}

/// The command that most cases run.
pub(crate) const TRAIN: &[&str] = &["train", "run.toml", "--quiet"];

/// Inputs that no case may change: text, tokenizer, dataset, and a run of two steps with both checkpoints.
pub(crate) fn shared() -> &'static Path {
    static SHARED: OnceLock<TempDir> = OnceLock::new();
    SHARED.get_or_init(make_shared).path()
}

fn make_shared() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let text: String =
        (0..400).map(|i| format!("line {i}: {} weavers at {} looms\n", i * 7, i * i)).collect();
    fs::write(dir.path().join("text.txt"), text).unwrap();
    fs::write(dir.path().join("run.toml"), RUN_FILE.replace("{w}", &dir.path().display().to_string()))
        .unwrap();
    for args in [
        &["tokenizer", "train", "--out", "tokenizer.json", "--vocab-size", "300", "text.txt"][..],
        &["data", "tokenize", "--out", "tokens", "--tokenizer", "tokenizer.json", "text.txt"],
        TRAIN,
    ] {
        let output = command(dir.path(), args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    dir
}

/// The binary, to be run in `dir`.
pub(crate) fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tisserand"));
    command.current_dir(dir).args(args).stdin(Stdio::null());
    command
}

/// A folder of one case, with a run file that is right.
pub(crate) struct Sandbox(TempDir);

impl Sandbox {
    pub(crate) fn new() -> Self {
        let sandbox = Sandbox(tempfile::tempdir().unwrap());
        sandbox.write("run.toml", with_shared(RUN_FILE));
        sandbox
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Replaces one piece of text in a file, which must hold it.
    pub(crate) fn replace(&self, name: &str, old: &str, new: &str) {
        let text = fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(old), "{name} does not hold {old:?}");
        self.write(name, text.replacen(old, &with_shared(new), 1));
    }

    /// Changes the bytes of a file.
    pub(crate) fn edit(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.path(name)).unwrap();
        change(&mut bytes);
        self.write(name, bytes);
    }

    /// Copies a shared file or folder to the same name here.
    pub(crate) fn copy(&self, name: &str) {
        copy(&shared().join(name), &self.path(name));
    }

    /// The dataset here, and the run file pointing to it.
    pub(crate) fn own_dataset(&self) {
        self.copy("tokens.bin");
        self.copy("tokens.idx");
        self.replace(
            "run.toml",
            "{w}/tokens".replace("{w}", &shared().display().to_string()).as_str(),
            "tokens",
        );
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        let args: Vec<String> = args.iter().map(|arg| with_shared(arg)).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        command(self.0.path(), &args).output().unwrap()
    }
}

fn with_shared(text: &str) -> String {
    text.replace("{w}", &shared().display().to_string())
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    }
}

/// Every file below `dir` with its bytes.
pub(crate) fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(contents(&path));
        } else if path.is_file() {
            files.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    files
}

/// Runs every case and reports all that fail: exit code 2, one line, all that is expected in it, and every file
/// that was there before unchanged.
pub(crate) fn check(cases: &[Case]) {
    let mut failures = Vec::new();
    let shared_before = contents(shared());
    for case in cases {
        let sandbox = Sandbox::new();
        (case.prepare)(&sandbox);
        let before = contents(&sandbox.path(""));
        let output = sandbox.run(case.args);
        let mut faults = faults(&output, 2, case.expected);
        let after = contents(&sandbox.path(""));
        faults.extend(lost(&before, &after).map(|path| format!("{} was changed", path.display())));
        let stderr = String::from_utf8_lossy(&output.stderr);
        println!("{}: {stderr}", case.name);
        if !faults.is_empty() {
            failures.push(format!("{}: {}\n    {stderr}", case.name, faults.join("; ")));
        }
    }
    let shared_after = contents(shared());
    failures
        .extend(lost(&shared_before, &shared_after).map(|path| format!("{} was changed", path.display())));
    assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// Files that are gone or differ.
pub(crate) fn lost<'a>(
    before: &'a BTreeMap<PathBuf, Vec<u8>>,
    after: &'a BTreeMap<PathBuf, Vec<u8>>,
) -> impl Iterator<Item = &'a PathBuf> {
    before.iter().filter(|(path, bytes)| after.get(*path) != Some(*bytes)).map(|(path, _)| path)
}

/// What is wrong with how a command failed: its exit code, anything but one line that starts with `error: `
/// (warnings may come before), a panic, or a missing part of the message.
pub(crate) fn faults(output: &Output, code: i32, expected: &[&str]) -> Vec<String> {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut faults = Vec::new();
    if output.status.code() != Some(code) {
        faults.push(format!("{} instead of exit code {code}", output.status));
    }
    let lines: Vec<&str> = stderr.lines().filter(|line| !line.starts_with("warning: ")).collect();
    if lines.len() != 1 || !lines[0].starts_with("error: ") {
        faults.push(format!("not one line that starts with \"error: \" but {}", lines.len()));
    }
    if stderr.contains("panicked") {
        faults.push("a panic".to_owned());
    }
    let missing =
        expected.iter().map(|part| with_shared(part)).filter(|part| !stderr.contains(part.as_str()));
    faults.extend(missing.map(|part| format!("{part:?} is missing")));
    faults
}
