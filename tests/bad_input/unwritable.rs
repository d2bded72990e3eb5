//! Folders that cannot be written, and disks that fill up.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Case, Sandbox, TRAIN, check, contents, faults, lost};

#[test]
fn run_folders_that_cannot_be() {
    let case = |name, args, expected| Case { name, prepare: |s| s.write("file", "x"), args, expected };
    check(&[
        case("a file", &["train", "run.toml", "--set", "run.dir=file"], &["file", "hint: "]),
        case("below a file", &["train", "run.toml", "--set", "run.dir=file/run"], &["file", "hint: "]),
        case("in /proc", &["train", "run.toml", "--set", "run.dir=/proc/run"], &["/proc/run"]),
        case(
            "export below a file",
            &["checkpoint", "export", "{w}/run", "--out", "file/out"],
            &["cannot create folder file: ", "hint: "],
        ),
        case(
            "tokens below a file",
            &["data", "tokenize", "--out", "file/t", "--tokenizer", "{w}/tokenizer.json", "{w}/text.txt"],
            &["file"],
        ),
        case(
            "a tokenizer below a file",
            &["tokenizer", "train", "--out", "file/t.json", "--vocab-size", "300", "{w}/text.txt"],
            &["file"],
        ),
    ]);
}

/// A file system of its own, unmounted at the end.
struct Mount(PathBuf);

impl Mount {
    /// A tmpfs on a new folder of the sandbox; `None` where this process may not mount.
    fn new(sandbox: &Sandbox, name: &str, options: &str) -> Option<Self> {
        let dir = sandbox.path(name);
        fs::create_dir_all(&dir).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&dir);
        mount.output().is_ok_and(|output| output.status.success()).then_some(Mount(dir))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Arguments that train in `dir` to step `steps`, whatever the run there began with.
fn train_to<'a>(dir: &'a str, steps: &'a str) -> [&'a str; 9] {
    ["train", "run.toml", "--quiet", "--set", dir, "--set", steps, "--allow-change", "training.steps"]
}

/// A run whose saves fail: an intermediate one is a warning, the last one ends the run with exit code 1; the
/// checkpoint before is whole and, once there is room, the run goes on from it.
fn check_saves_that_fail(output: &std::process::Output, cause: &str, sandbox: &Sandbox, dir: &Path) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    println!("{stderr}");
    assert_eq!(faults(output, 1, &[cause]), Vec::<String>::new(), "{stderr}");
    // Other files, status.json say, may fail beside the save: that is a warning too, in no fixed order.
    let warned = |line: &str| {
        line.starts_with("warning: checkpoint failed, the run goes on: ") && line.contains(cause)
    };
    assert!(stderr.lines().any(warned), "{stderr}");
    let verified = sandbox.run(&["checkpoint", "verify", dir.to_str().unwrap()]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}

#[test]
fn a_file_size_limit_during_a_save() {
    let sandbox = Sandbox::new();
    let run = |steps| sandbox.run(&train_to("run.dir=run", steps));
    assert!(run("training.steps=1").status.success());
    let before = contents(&sandbox.path("run/checkpoints"));
    // 64 KiB: enough for every file but those of a checkpoint. The signal is ignored, so that writing fails.
    let script = "trap '' XFSZ; ulimit -f 128; exec \"$0\" \"$@\"";
    let mut limited = Command::new("sh");
    limited.current_dir(sandbox.path("")).args(["-c", script, env!("CARGO_BIN_EXE_tisserand")]);
    let output = limited.args(train_to("run.dir=run", "training.steps=3")).output().unwrap();
    check_saves_that_fail(&output, "File too large", &sandbox, &sandbox.path("run"));
    assert_eq!(lost(&before, &contents(&sandbox.path("run/checkpoints"))).count(), 0);
    assert!(run("training.steps=3").status.success());
}

#[test]
fn a_full_disk_during_a_save() {
    let sandbox = Sandbox::new();
    let Some(mount) = Mount::new(&sandbox, "disk", "size=2m") else {
        println!("this process may not mount: a_file_size_limit_during_a_save stands for this test");
        return;
    };
    let run = |steps| sandbox.run(&train_to("run.dir=disk/run", steps));
    assert!(run("training.steps=1").status.success());
    let before = contents(&mount.0.join("run/checkpoints"));
    // What is left is enough for logs, not for a checkpoint.
    let statistics = nix::sys::statvfs::statvfs(&mount.0).unwrap();
    let free = (statistics.blocks_available() * statistics.fragment_size()) as usize;
    fs::write(mount.0.join("ballast"), vec![1_u8; free - (100 << 10)]).unwrap();
    let output = run("training.steps=3");
    check_saves_that_fail(&output, "No space left on device", &sandbox, &mount.0.join("run"));
    assert_eq!(lost(&before, &contents(&mount.0.join("run/checkpoints"))).count(), 0);
    fs::remove_file(mount.0.join("ballast")).unwrap();
    assert!(run("training.steps=3").status.success());
}

#[test]
fn a_read_only_file_system() {
    let sandbox = Sandbox::new();
    let Some(_mount) = Mount::new(&sandbox, "disk", "ro") else {
        println!("this process may not mount: run_folders_that_cannot_be has other folders of this kind");
        return;
    };
    let output = sandbox.run(&["train", "run.toml", "--quiet", "--set", "run.dir=disk/run"]);
    assert_eq!(faults(&output, 2, &["disk/run", "read-only", "hint: "]), Vec::<String>::new());
    let output = sandbox.run(TRAIN);
    assert!(output.status.success());
}
