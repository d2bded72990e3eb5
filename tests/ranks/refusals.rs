//! Ranks and meshes that do not fit: one line, exit code 2, a hint, and no folder.

use crate::run::{Run, errors, tisserand};

/// One refusal: ranks, keys, and what the line must contain.
type Case = (&'static str, &'static [&'static str], &'static [&'static str]);

#[rustfmt::skip] // a table: one mistake, one line
const CASES: &[Case] = &[
    ("4", &["mesh.dp_shard=2"], &["mesh.dp_shard", "multiply to 2", "4 ranks", "hint: --ranks 2", "auto"]),
    ("1", &["mesh.dp_shard=2"], &["multiply to 2", "1 rank;", "hint: --ranks 2"]),
    ("2", &["mesh.dp_shard=1", "mesh.dp_replicate=1"], &["multiply to 1", "2 ranks", "hint: --ranks 1"]),
    ("6", &["mesh.dp_replicate=4"], &["mesh.dp_replicate", "multiply to 4", "6 ranks", "hint: "]),
    ("8", &[], &["training.global_batch", "4", "micro_batch", "8", "hint: "]),
    ("3", &[], &["training.global_batch", "4", "3", "hint: "]),
    ("3", &["mesh.dp_shard=1", "mesh.tp=3"], &["mesh.tp", "hint: ", "would do"]),
    ("2", &["mesh.zero=4"], &["mesh.zero", "4", "0", "3"]),
    ("2", &["mesh.dp_shard=0"], &["mesh.dp_shard", "0", "positive", "auto"]),
    ("3", &["training.global_batch=6", "determinism.mesh_invariant=true"], &["determinism.mesh_invariant", "= 3", "power of two", "2 or 4"]),
    ("2", &["training.global_batch=6", "training.micro_batch=1", "determinism.mesh_invariant=true"], &["global_batch / micro_batch = 6", "power of two", "4 or 8"]),
    ("2", &["precision.reduce=bf16", "determinism.mesh_invariant=true"], &["determinism.mesh_invariant", "bf16", "hint: precision.reduce"]),
    ("0", &[], &["0", "--ranks", "from 1 to 1024"]),
    ("-1", &[], &["--ranks"]),
    ("two", &[], &["two", "--ranks", "from 1 to 1024"]),
    ("5000", &[], &["5000", "--ranks", "from 1 to 1024"]),
];

#[test]
fn ranks_and_meshes_that_do_not_fit_are_refused() {
    let mut failures = Vec::new();
    for (ranks, sets, expected) in CASES {
        let run = Run::new(sets);
        let output = run.command().arg(format!("--ranks={ranks}")).output().unwrap();
        let said = errors(&output);
        println!("{said}");
        let missing: Vec<_> = expected.iter().filter(|part| !said.contains(**part)).collect();
        let lines = String::from_utf8_lossy(&output.stderr).lines().filter(|l| !l.is_empty()).count();
        // What clap refuses ends with where to find help.
        let is_usage = said.contains("try '--help'");
        if !missing.is_empty() || output.status.code() != Some(2) || lines != 1 + usize::from(is_usage) {
            failures.push(format!("{ranks} {sets:?}: lacks {missing:?}: {said}"));
        }
        if run.dir().exists() {
            failures.push(format!("{ranks} {sets:?}: made the run folder"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// What each of the ranks would say is said once, and by nobody's table.
#[test]
fn what_all_ranks_meet_is_said_once() {
    let corpus = crate::run::Corpus::get();
    let source = |weight: &str| format!("data.sources=[{{ path = \"{}\", {weight} }}]", corpus.tokens());
    let cases: [(&[&str], &str); 4] = [
        (&["data.sources=[{ path = \"/nowhere/tokens\" }]"], "/nowhere/tokens"),
        (&[&source("max_epochs = 0.01")], "epoch"),
        (&["tokenizer.path=/nowhere/tokenizer.json"], "/nowhere/tokenizer.json"),
        (&["init.from=/nowhere/at-all"], "/nowhere/at-all"),
    ];
    for (sets, expected) in cases {
        let mut run = Run::new(sets);
        run.set_ranks(2);
        let said = run.exits(2);
        assert!(said.starts_with("error: ") && said.lines().count() == 1, "{sets:?}: {said}");
        assert!(said.contains(expected) && said.contains("hint: "), "{sets:?}: {said}");
        assert!(!said.contains("rank "), "{sets:?}: {said}");
    }
    // The run is refused, and so another one may have the folder.
    let mut run = Run::new(&["tokenizer.path=/nowhere/tokenizer.json"]);
    run.set_ranks(2);
    run.exits(2);
    run.set(&[&format!("tokenizer.path={}", corpus.tokenizer())]);
    run.exits(0);
}

/// Warnings too.
#[test]
fn a_warning_is_said_once() {
    let mut from = Run::new(&["training.steps=4", "checkpoint.every_steps=2"]);
    from.set_ranks(2);
    from.exits(0);
    std::fs::write(from.checkpoint(4).join("manifest.json"), "{").unwrap();
    let run = from.and(&[&format!("init.from={}", from.dir_name()), "init.load=weights"]);
    let said = run.exits(0);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("warning: "), "{said}");
    let said = from.exits(0);
    assert_eq!(said.lines().filter(|line| line.contains("step-00000004")).count(), 1, "{said}");
}

/// A plan is about one rank of the mesh in the run file; it takes the sizes at their word.
#[test]
fn a_run_file_for_many_ranks_can_be_looked_at_without_them() {
    let run = Run::new(&["mesh.dp_shard=2", "mesh.dp_replicate=2", "training.micro_batch=1"]);
    let run_file = run.run_file();
    for command in [&["plan", "--json"][..], &["config", "show"], &["data", "order", "--steps", "1..2"]] {
        tisserand(command.iter().copied().chain(run_file.iter().map(String::as_str)));
    }
}
