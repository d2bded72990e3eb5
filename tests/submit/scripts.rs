//! What the scripts say.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Sandbox, root};

const PROGRAM: [&str; 2] = ["--binary", "/path/to/tisserand"];

/// Every profile that takes jobs, with what it must be told.
const PROFILES: [&[&str]; 7] = [
    &["--profile", "generic", "--ranks-per-node", "4", "--time", "20:00:00"],
    &["--profile", "jeanzay-h100", "--account", "abc"],
    &["--profile", "jeanzay-a100", "--account", "abc@a100"],
    &["--profile", "leonardo", "--account", "abc"],
    &["--profile", "mn5", "--account", "abc"],
    &["--profile", "jupiter", "--account", "abc"],
    &["--profile", "alps", "--account", "abc"],
];

#[test]
fn every_script_is_read_by_bash() {
    let sandbox = Sandbox::new();
    for profile in PROFILES {
        for then in [&["--requeue"][..], &["--chain", "3"], &[]] {
            let script = sandbox.script(&[profile, &["--nodes", "2"], then].concat());
            let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
            bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
            assert!(bash.wait().unwrap().success(), "{profile:?}:\n{script}");
            shellcheck(&script);
            assert!(!script.contains("{{") && !script.contains("\n\n\n"), "{script}");
            // sbatch reads its options up to the first command.
            let options = script.lines().skip(1).take_while(|line| line.starts_with('#') || line.is_empty());
            assert_eq!(
                options.filter(|line| line.starts_with("#SBATCH")).count(),
                script.matches("#SBATCH").count()
            );
        }
    }
}

/// Where there is one.
fn shellcheck(script: &str) {
    let check = Command::new("shellcheck").args(["-s", "bash", "-"]).stdin(Stdio::piped()).spawn();
    let Ok(mut check) = check else { return };
    check.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(check.wait().unwrap().success(), "{script}");
}

#[test]
fn scripts_are_as_they_were_read_by_people() {
    let sandbox = Sandbox::new();
    for (name, arguments) in [
        ("jeanzay-h100", &["--profile", "jeanzay-h100", "--account", "abc", "--nodes", "16"][..]),
        ("leonardo-chain", &["--profile", "leonardo", "--account", "abc", "--nodes", "128", "--chain", "4"]),
        ("jupiter", &["--profile", "jupiter", "--account", "abc", "--nodes", "2", "--module", "NCCL"]),
    ] {
        let script = sandbox.script(&[arguments, &PROGRAM[..]].concat());
        same_as(&script, &format!("tests/submit/golden/{name}.sbatch"));
    }
}

/// The plain files, for people who prefer them, cannot grow apart from what `submit` writes.
#[test]
fn plain_files_are_scripts_of_the_generic_profile() {
    let sandbox = Sandbox::new();
    for (name, arguments) in [
        ("single-node", &["--nodes", "1"][..]),
        ("requeue", &["--nodes", "16"]),
        ("chain", &["--nodes", "16", "--chain", "10"]),
    ] {
        let node =
            ["--ranks-per-node", "4", "--cpus-per-task", "8", "--time", "20:00:00", "--account", "PROJECT"];
        let generic = ["--profile", "generic"];
        let script = sandbox.script(&[&generic[..], arguments, &node, &PROGRAM].concat());
        same_as(&script, &format!("launch/sbatch/{name}.sbatch"));
    }
}

/// `TISSERAND_BLESS=1` writes what differs, for a person to read.
fn same_as(script: &str, file: &str) {
    let path = root().join(file);
    // The name of a chain has four digits of the sandbox's folder.
    let script = without_digits(script);
    if std::env::var_os("TISSERAND_BLESS").is_some() {
        fs::write(&path, &script).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(script, there, "{file}: TISSERAND_BLESS=1 replaces it");
}

fn without_digits(script: &str) -> String {
    const NAME: &str = "--job-name=weave-";
    match script.split_once(NAME) {
        Some((before, after)) => format!("{before}{NAME}0000{}", &after[4..]),
        None => script.to_owned(),
    }
}

/// A script that is executed where `srun` is this one, which a real Slurm is only now and then.
fn execute(sandbox: &Sandbox, srun: &str) -> (Option<i32>, String) {
    let generic = ["--profile", "generic", "--nodes", "1", "--ranks-per-node", "1", "--time", "1:00:00"];
    let output = sandbox.submit(&[&generic[..], &["--chain", "2", "--dry-run"], &PROGRAM].concat());
    let bin = sandbox.path("bin");
    fs::create_dir_all(&bin).unwrap();
    for (name, body) in [("srun", srun), ("scancel", "echo scancel"), ("sleep", "echo sleep $1")] {
        fs::write(bin.join(name), format!("#!/bin/bash\n{body}\n")).unwrap();
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut script = Command::new("bash");
    script.arg("-c").arg(String::from_utf8(output.stdout).unwrap());
    script.env("PATH", path).env("SLURM_JOB_ID", "7").env("SLURM_CPUS_PER_TASK", "1");
    let output = script.current_dir(sandbox.path(".")).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_launch_that_never_was_is_not_the_end_of_the_run() {
    let sandbox = Sandbox::new();
    // Whatever an earlier start has left.
    fs::create_dir_all(sandbox.path("runs/weave/jobs/0001-7")).unwrap();
    fs::write(sandbox.path("runs/weave/status.json"), "{\n  \"state\": \"finished\"\n}\n").unwrap();
    let (code, said) = execute(&sandbox, "echo launched");
    assert_eq!((code, said.matches("launched\n").count()), (Some(1), 2), "{said}");
    assert!(said.contains("sleep 30") && said.contains("the chain ends here\nscancel"), "{said}");

    let second = "echo launched; [ -e once ] && mkdir runs/weave/jobs/0002-7; touch once";
    let (code, said) = execute(&sandbox, second);
    assert_eq!((code, said.matches("launched\n").count()), (Some(0), 2), "{said}");
    assert!(said.contains("the run is finished"), "{said}");

    let (code, said) = execute(&sandbox, "echo launched; exit 75");
    assert_eq!((code, said.matches("launched\n").count()), (Some(75), 1), "{said}");
}

#[test]
fn flags_replace_lines_and_the_rest_is_passed_on() {
    let sandbox = Sandbox::new();
    let script = sandbox.script(&[
        "--profile",
        "jeanzay-h100",
        "--nodes",
        "4",
        "--account",
        "abc@h100",
        "--time",
        "1-00:00:00",
        "--constraint",
        "h100&big",
        "--sbatch",
        "mail-type=END",
        "--sbatch",
        "hint=multithread",
        "--signal-lead",
        "600",
        "--set",
        "optimizer.lr=2e-3",
        "--allow-change",
        "optimizer.lr",
    ]);
    for line in [
        "#SBATCH --account=abc@h100 ",
        "#SBATCH --constraint='h100&big' ",
        "#SBATCH --qos=qos_gpu_h100-t4 ",
        "#SBATCH --time=1-00:00:00\n",
        "#SBATCH --signal=USR1@600 ",
        "#SBATCH --mail-type=END ",
        "#SBATCH --hint=multithread ",
        "export TISSERAND_SIGNAL_LEAD_S=600\n",
        " train run.toml --set optimizer.lr=2e-3 --allow-change optimizer.lr\n",
    ] {
        assert!(script.contains(line), "{line:?}:\n{script}");
    }
    assert!(!script.contains("nomultithread"), "{script}");
    let test = ["--profile", "leonardo", "--account", "abc", "--nodes", "1", "--qos", "boost_qos_dbg"];
    let script = sandbox.script(&test);
    assert!(script.contains("--qos=boost_qos_dbg ") && script.contains("--time=00:30:00\n"), "{script}");
}

#[test]
fn json_has_script_and_bytes() {
    let sandbox = Sandbox::new();
    let arguments = ["--profile", "alps", "--account", "abc", "--nodes", "2", "--dry-run", "--json"];
    let output = sandbox.submit(&arguments);
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["ranks"], 8);
    assert_eq!(object["time_s"], 12 * 3600);
    assert_eq!(object["jobs"], Value::Array(Vec::new()));
    assert!(object["needed_bytes"].as_u64().unwrap() < object["memory_bytes"].as_u64().unwrap());
    assert!(object["script"].as_str().unwrap().starts_with("#!/bin/bash\n"));
    assert!(object["storage_needed_bytes"].as_u64() > object["checkpoint_bytes"].as_u64());
}
