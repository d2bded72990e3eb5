//! What the scripts say.

use std::fs;
use std::io::Write;
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
