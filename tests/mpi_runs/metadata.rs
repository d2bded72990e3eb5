//! What a start asks of the file system that all machines share, counted: a thousand ranks must not look for the same
//! files a thousand times. Rank 0 looks and tells the others, and the first rank of each machine opens for all of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::run::{Corpus, Run, errors};
use super::under_mpirun;

/// How often each call was made on each path.
type Calls = BTreeMap<String, usize>;

/// The calls on the folder of `run` and on the corpus, of a start on so many ranks.
fn count(run: &Run, ranks: usize, more: &[&str]) -> Calls {
    let mut program = run.command();
    program.args(more);
    let program = under_mpirun(ranks, &program);
    let trace = run.dir().with_file_name("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-e", "trace=%file,fstat,getdents64", "-o"]).arg(&trace);
    strace.arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    let output = strace.output().expect("strace must be installed for this test: apt-get install strace");
    assert!(output.status.success(), "{}", errors(&output));
    let parent = |path: &str| Path::new(path).parent().unwrap().display().to_string();
    let shared = [(parent(&run.dir_name()), "RUN"), (parent(&Corpus::get().tokens()), "CORPUS")];
    let mut calls = Calls::new();
    for call in
        String::from_utf8_lossy(&fs::read(&trace).unwrap()).lines().filter_map(|line| call(line, &shared))
    {
        *calls.entry(call).or_default() += 1;
    }
    calls
}

/// "openat CORPUS/tokens.bin" of a line of strace, if it is on a shared path. What is written as long as a run goes on
/// is no start: steps, and the signs of life of rank 0.
fn call(line: &str, shared: &[(String, &str)]) -> Option<String> {
    let (name, rest) = line.split_once(' ')?.1.trim_start().split_once('(')?;
    let is_call = name != "execve" && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let (at, length, short) =
        shared.iter().filter_map(|(path, short)| Some((rest.rfind(path)?, path.len(), short))).max()?;
    let path = rest[at + length..].split(['"', '>']).next()?;
    let goes_on = [".tmp", "LOCK", "status.json"].iter().any(|part| path.contains(part));
    (is_call && !goes_on).then(|| format!("{name} {short}{path}"))
}

/// Calls that `many` has oftener than `few`, and how much.
fn added(few: &Calls, many: &Calls) -> Vec<String> {
    let added =
        |(call, count): (&String, &usize)| match count - few.get(call).copied().unwrap_or(0).min(*count) {
            0 => None,
            added => Some(format!("{added} {call}")),
        };
    many.iter().filter_map(added).collect()
}

#[test]
fn more_ranks_of_a_machine_ask_nothing_more() {
    let run = || {
        Run::new(&[
            "training.global_batch=8",
            "training.micro_batch=1",
            "training.steps=2",
            "eval.every_steps=0",
            "checkpoint.every_steps=0",
        ])
    };
    let (mut few, mut many) = (run(), run());
    let (two, eight) = (count(&few, 2, &[]), count(&many, 8, &[]));
    println!(
        "a start: {} calls on 2 ranks, {} on 8",
        two.values().sum::<usize>(),
        eight.values().sum::<usize>()
    );
    assert!(added(&two, &eight).is_empty(), "{:#?} {eight:#?}", added(&two, &eight));
    // Going on from a checkpoint.
    let longer = ["--allow-change", "training.steps"];
    few.set(&["training.steps=4"]);
    many.set(&["training.steps=4"]);
    let (two, eight) = (count(&few, 2, &longer), count(&many, 8, &longer));
    println!(
        "going on: {} calls on 2 ranks, {} on 8",
        two.values().sum::<usize>(),
        eight.values().sum::<usize>()
    );
    assert!(added(&two, &eight).is_empty(), "{:#?} {eight:#?}", added(&two, &eight));
}
