//! `benches/gpu/run.sh` with scripts in place of its programs: what it asks of them is valid, and nothing that hangs or
//! stays behind takes the results of what comes after it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// `bench`, which is asked for the GPU first.
const BENCH: &str = "#!/bin/bash\n[ \"$1\" = --probe ] && echo 'a GPU'\n";

/// A bundle whose programs are these scripts.
fn bundle(programs: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/gpu");
    fs::copy(sources.join("run.sh"), folder.path().join("run.sh")).unwrap();
    fs::create_dir(folder.path().join("runs")).unwrap();
    for file in ["tiny.toml", "medium.toml", "large.toml"] {
        fs::copy(sources.join("runs").join(file), folder.path().join("runs").join(file)).unwrap();
    }
    for (name, script) in programs.iter().chain(&[("bench", BENCH)]) {
        let path = folder.path().join(name);
        fs::write(&path, script).unwrap();
        assert!(Command::new("gzip").arg(&path).status().unwrap().success());
    }
    // No PyTorch, and no time spent to look for it.
    let tools = folder.path().join("tools");
    fs::create_dir(&tools).unwrap();
    for name in ["python3", "nvidia-smi"] {
        fs::write(tools.join(name), "#!/bin/sh\nexit 1\n").unwrap();
        fs::set_permissions(tools.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

/// `run.sh` on a part, with its results in the bundle.
fn run_sh(bundle: &TempDir, part: &str) -> Command {
    let path = format!("{}/tools:{}", bundle.path().display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.arg("run.sh").arg(part).current_dir(bundle.path()).env("PATH", path).stdin(Stdio::null());
    command
}

fn result(bundle: &TempDir) -> Value {
    let text = fs::read_to_string(bundle.path().join("results/result.json")).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Status and detail of a check.
fn check<'a>(result: &'a Value, name: &str) -> (&'a str, &'a str) {
    let checks = result["results"].as_array().unwrap();
    let check =
        checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}: {result}"));
    (check["status"].as_str().unwrap(), check["detail"].as_str().unwrap())
}

#[test]
fn what_a_check_leaves_behind_neither_holds_up_the_others_nor_lives_on() {
    let script = "#!/bin/bash
        case $1 in
        --list) printf '%s::a: test\\n' leaves fails works ;;
        leaves::) (trap '' TERM HUP; echo $BASHPID >left; exec sleep 300) & echo leaves ;;
        fails::) printf 'test fails::é ... FAILED\\ntest \"result\" \\\\ ×: FAILED\\n\\n'; exit 101 ;;
        works::) echo works ;;
        esac
        sleep 0.3";
    let bundle = bundle(&[("check", script)]);
    let began = Instant::now();
    let output = run_sh(&bundle, "kernels").output().unwrap();
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    let result = result(&bundle);
    assert_eq!(check(&result, "kernels: leaves").0, "ok", "{text}");
    assert_eq!(check(&result, "kernels: works").0, "ok", "{text}");
    let detail = check(&result, "kernels: fails").1;
    assert_eq!(detail, "exit code 101: test \"result\" \\ : FAILED | fails::");
    assert_eq!(serde_json::from_str::<Value>(text.lines().last().unwrap()).unwrap(), result);
    let left = fs::read_to_string(bundle.path().join("left")).unwrap();
    let gone = || !Path::new("/proc").join(left.trim()).exists();
    assert!(
        (0..100).any(|_| gone() || {
            std::thread::sleep(Duration::from_millis(50));
            gone()
        }),
        "{left}"
    );
}

#[test]
fn results_are_there_when_the_whole_is_ended() {
    let script = "#!/bin/bash
        case $1 in
        --list) printf '%s::a: test\\n' a_works hangs ;;
        a_works::) echo works ;;
        hangs::) trap '' TERM; >hangs; while :; do sleep 1; done ;;
        esac";
    let bundle = bundle(&[("check", script)]);
    let child = run_sh(&bundle, "kernels").stdout(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while !bundle.path().join("hangs").exists() {
        assert!(began.elapsed() < Duration::from_secs(60), "it never began");
        std::thread::sleep(Duration::from_millis(50));
    }
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    assert_eq!(output.status.code(), Some(143));
    let result = result(&bundle);
    assert_eq!(check(&result, "kernels: a_works").0, "ok");
    assert_eq!(check(&result, "run.sh"), ("failed", "ended by a signal"));
}

#[test]
fn every_run_that_it_starts_is_a_valid_one() {
    // In place of a run, the program reads what the run would: the file and all settings.
    let script = format!(
        "#!/bin/bash
        command=$1 file=$2; shift 2
        [ $command = train ] || exit 0
        [ \"$1\" != --ranks ] || shift 2
        '{}' config show \"$file\" \"$@\" >/dev/null || exit
        for setting; do case $setting in run.dir=*) folder=${{setting#run.dir=}} ;; esac; done
        mkdir -p $folder/checkpoints/step-00000020
        for step in 16 100 500; do
            echo '{{\"type\":\"step\",\"step\":'$step',\"loss\":1,\"tokens_per_s\":2,\"flops_per_token\":3,}}'
        done >$folder/metrics.jsonl",
        env!("CARGO_BIN_EXE_tisserand")
    );
    let bundle = bundle(&[("tisserand", script.as_str())]);
    let mut runs = 0;
    for part in ["train", "bench", "curves"] {
        let output = run_sh(&bundle, part).output().unwrap();
        for check in result(&bundle)["results"].as_array().unwrap() {
            let name = check["name"].as_str().unwrap();
            if name.starts_with("train: ") {
                assert_eq!(check["status"], "ok", "{name}: {}", String::from_utf8_lossy(&output.stdout));
                runs += 1;
            }
        }
    }
    assert!(runs >= 19, "{runs} runs");
}
