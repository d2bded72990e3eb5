//! What is refused before anything waits in a queue: exit code 2, one line, nothing written.

use std::fs;

use crate::support::{Sandbox, root};

/// Arguments beside `submit run.toml`, and what the line must contain.
type Case = (&'static [&'static str], &'static [&'static str]);

const JEAN_ZAY: &[&str] = &["--profile", "jeanzay-h100", "--account", "abc"];

fn refused(sandbox: &Sandbox, arguments: &[&str], expected: &[&str]) {
    let output = sandbox.submit(arguments);
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    let errors: Vec<&str> = line.lines().filter(|line| !line.starts_with("warning: ")).collect();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {line}");
    assert!(errors.len() == 1 && errors[0].starts_with("error: "), "{arguments:?}: {line}");
    for part in expected {
        assert!(line.contains(part), "{arguments:?}: {part:?} is missing in {line}");
    }
    assert!(!sandbox.path("runs").exists(), "{arguments:?}: a run folder was made");
    println!("{line}");
}

#[test]
fn machines_times_and_options() {
    let sandbox = Sandbox::new();
    let cases: [Case; 17] = [
        (&["--profile", "jeanzay", "--nodes", "1"], &["\"jeanzay\"", "did you mean jeanzay-", "leonardo"]),
        (&["--profile", "none.toml", "--nodes", "1"], &["none.toml", "no such file"]),
        (&["--profile", "lumi", "--nodes", "1"], &["lumi", "MI250X", "HIP: not yet"]),
        (&["--profile", "alice-recoque", "--nodes", "1"], &["MI430X", "HIP: not yet"]),
        (&["--profile", "jeanzay-h100", "--nodes", "1"], &["--account", "jeanzay-h100"]),
        (&["--profile", "generic", "--nodes", "1"], &["--nodes 1", "hint: --ranks-per-node 4"]),
        (
            &["--profile", "generic", "--nodes", "1", "--ranks-per-node", "4"],
            &["generic", "hint: --time 20:00:00"],
        ),
        (&["--nodes", "1", "--ranks-per-node", "5"], &["--ranks-per-node 5", "has 4 GPUs"]),
        (&["--nodes", "1", "--time", "1h"], &["--time \"1h\"", "HH:MM:SS"]),
        (
            &["--nodes", "8", "--time", "50:00:00"],
            &["2-02:00:00 on 8 nodes", "t4 (up to 4-04:00:00, up to 4 nodes)"],
        ),
        (
            &["--nodes", "1", "--time", "03:00:00", "--qos", "qos_gpu_h100-dev"],
            &["03:00:00", "qos_gpu_h100-dev (up to 02:00:00)"],
        ),
        (&["--nodes", "1", "--time", "5", "--signal-lead", "300"], &["--signal-lead 300", "00:05:00"]),
        (&["--nodes", "1", "--sbatch", "time=5"], &["--sbatch \"time=5\"", "--time says that"]),
        (&["--nodes", "1", "--sbatch", "a b=5"], &["--sbatch \"a b=5\"", "mail-type=END"]),
        (&["--nodes", "1", "--sbatch", "comment=a\n#SBATCH --account=you"], &["a\\n#SBATCH", "line break"]),
        (
            &["--nodes", "1", "--set", "run.device=cpu"],
            &["run.device = \"cpu\"", "hint: --set run.device=cuda"],
        ),
        (&["--nodes", "3", "--set", "mesh.tp=8"], &["mesh"]),
    ];
    for (arguments, expected) in cases {
        let machine = if arguments.contains(&"--profile") { &[][..] } else { JEAN_ZAY };
        refused(&sandbox, &[machine, arguments, &["--dry-run"]].concat(), expected);
    }
}

#[test]
fn what_does_not_fit_the_gpus() {
    let sandbox = Sandbox::new();
    let file = root().join("examples/llama3-70b.toml");
    fs::copy(file, sandbox.path("run.toml")).unwrap();
    let arguments = ["--nodes", "2", "--set", "mesh.dp_shard=auto", "--dry-run"];
    let expected = ["each rank needs", "H100 SXM 80 GB has 79.6 GiB", "too much on 8 ranks", "--search"];
    refused(&sandbox, &[JEAN_ZAY, &arguments].concat(), &expected);
    // The same on the 64 GB of MareNostrum 5.
    let mn5 = ["--profile", "mn5", "--account", "abc"];
    refused(&sandbox, &[&mn5[..], &arguments].concat(), &["H100 SXM 64 GB has 63.3 GiB"]);
}

#[test]
fn checkpoints_that_do_not_fit_the_quota() {
    let sandbox = Sandbox::new();
    let quota = [JEAN_ZAY, &["--nodes", "1", "--dry-run", "--quota-bytes", "1000000000"]].concat();
    let expected = ["its checkpoints take up to", "--quota-bytes allows 954 MiB", "checkpoint.keep_last"];
    refused(&sandbox, &quota, &expected);
    let kept = "checkpoint.keep_every_steps=1";
    let kept = [
        "--nodes",
        "1",
        "--dry-run",
        "--set",
        kept,
        "--set",
        "training.steps=9000",
        "--set",
        "run.dir=work/run",
    ];
    let work = sandbox.path("work");
    let arguments = [JEAN_ZAY, &kept].concat();
    let output =
        sandbox.command().env("WORK", &work).args(["submit", "run.toml"]).args(arguments).output().unwrap();
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && line.contains("4.55 TiB below $WORK"), "{line}");
    assert!(!work.exists());
}

#[test]
fn programs_and_machines_that_cannot_do_it() {
    let sandbox = Sandbox::new();
    if !cfg!(feature = "nccl") {
        refused(&sandbox, &[JEAN_ZAY, &["--nodes", "1"]].concat(), &["--features nccl", "--binary PATH"]);
    }
    refused(
        &sandbox,
        &[JEAN_ZAY, &["--nodes", "1", "--binary", "none"]].concat(),
        &["--binary none", "no such file"],
    );
    let arguments = [
        "submit",
        "run.toml",
        "--profile",
        "generic",
        "--nodes",
        "1",
        "--ranks-per-node",
        "1",
        "--time",
        "60",
    ];
    let mut command = sandbox.command();
    command
        .args(arguments)
        .args(["--set", "run.device=cpu", "--set", "precision.compute=f32"])
        .env("PATH", "");
    let output = command.output().unwrap();
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{line}");
    assert!(line.contains("sbatch: no such program") && line.contains("--dry-run"), "{line}");
    assert!(String::from_utf8_lossy(&output.stdout).is_empty() && line.lines().count() == 1, "{line}");
}
