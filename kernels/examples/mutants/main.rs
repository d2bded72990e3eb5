//! Mutation score of the kernels: makes small mistakes in `kernels/cuda`, one at a time, and counts those that the
//! tests on the emulator see. docs/emulator.md holds the result.
//!
//! `cargo run -p tisserand-kernels --example mutants -- [--family F] [--at FILE:LINE|LINE OF A REPORT]
//! [--limit N] [--skip N] [--seed S] [--jobs J] [--json FILE] [--list]`

mod mutate;
mod place;
mod report;
mod run;
#[path = "../../build/sources.rs"]
mod sources;
mod tokens;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use mutate::Mistake;
use place::{Kernels, Mutant};
use report::Verdict;
use run::{Outcome, Workshop};

struct Options {
    family: Option<String>,
    at: Vec<String>,
    limit: usize,
    skip: usize,
    seed: u64,
    jobs: usize,
    json: Option<PathBuf>,
    list: bool,
}

fn options() -> Options {
    let mut options = Options {
        family: None,
        at: Vec::new(),
        limit: 240,
        skip: 0,
        seed: 1,
        jobs: 2,
        json: None,
        list: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_else(|| panic!("{word} needs a value"));
        let number = |text: String| text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        match word.as_str() {
            "--family" => options.family = Some(value()),
            "--at" => options.at.push(value()),
            "--limit" => options.limit = number(value()) as usize,
            "--skip" => options.skip = number(value()) as usize,
            "--seed" => options.seed = number(value()),
            "--jobs" => options.jobs = number(value()) as usize,
            "--json" => options.json = Some(value().into()),
            "--list" => options.list = true,
            other => panic!("{other}: no such option"),
        }
    }
    options
}

/// splitmix64 (Steele, Lea, Flood 2014).
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `limit` of the mutants: families in turn, and the kinds of mistakes of each in turn, drawn by the seed.
fn chosen(mutants: Vec<Mutant>, limit: usize, seed: u64) -> Vec<Mutant> {
    let mut groups: BTreeMap<String, BTreeMap<Mistake, Vec<Mutant>>> = BTreeMap::new();
    for mutant in mutants {
        let of_family = groups.entry(mutant.family.clone()).or_default();
        of_family.entry(mutant.change.mistake).or_default().push(mutant);
    }
    let mut turns: VecDeque<VecDeque<Vec<Mutant>>> =
        groups.into_values().map(|kinds| kinds.into_values().collect()).collect();
    let (mut state, mut found) = (seed, Vec::new());
    while found.len() < limit
        && let Some(mut kinds) = turns.pop_front()
    {
        let mut left = kinds.pop_front().expect("a family without mutants has no turn");
        found.push(left.swap_remove(next_random(&mut state) as usize % left.len()));
        if !left.is_empty() {
            kinds.push_back(left);
        }
        if !kinds.is_empty() {
            turns.push_back(kinds);
        }
    }
    found
}

fn main() {
    let options = options();
    let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let kernels = Kernels::read(&package.join("cuda"));
    let mut mutants = kernels.mutants();
    mutants.retain(|mutant| options.family.as_ref().is_none_or(|family| mutant.family == *family));
    let is_at = |mutant: &Mutant, at: &str| {
        at == format!("{}:{}", mutant.file, mutant.line) || at == report::line(mutant)
    };
    mutants.retain(|mutant| options.at.is_empty() || options.at.iter().any(|at| is_at(mutant, at)));
    let offered = mutants.len();
    let mut mutants = chosen(mutants, options.limit, options.seed);
    mutants.drain(..options.skip.min(mutants.len()));
    eprintln!("{} of {offered} mutants", mutants.len());
    if options.list {
        mutants.iter().for_each(|mutant| println!("{}", report::line(mutant)));
        return;
    }
    let verdicts = score(package, &kernels, &mutants, &options);
    print!("{}", report::tables(&verdicts));
}

/// What becomes of the mutants, first as they are, then, of those that survive, with AddressSanitizer: the tests run with
/// it too, and it sees what the emulator cannot.
fn score(package: PathBuf, kernels: &Kernels, mutants: &[Mutant], options: &Options) -> Vec<Verdict> {
    let own = std::env::current_exe().expect("a program has a path");
    let target = own.ancestors().nth(3).expect("examples lie in target/PROFILE/examples");
    let folder = target.join("mutants");
    let save = |verdicts: &[Verdict]| {
        let Some(path) = &options.json else { return };
        std::fs::write(path, report::json(verdicts)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    };
    let plain = Workshop { package: package.clone(), folder: folder.clone(), asan: false };
    let base = plain.base(kernels);
    let program = plain.program();
    let verdicts = judge_all(&plain, kernels, (&base, &program), mutants, options.jobs, &save);
    let (survived, mut verdicts): (Vec<_>, Vec<_>) =
        verdicts.into_iter().partition(|verdict| verdict.outcome == Outcome::Survived);
    if survived.is_empty() {
        return verdicts;
    }
    eprintln!("{} survivors, with AddressSanitizer", survived.len());
    let mutants: Vec<Mutant> = survived.into_iter().map(|verdict| verdict.mutant).collect();
    let instrumented = Workshop { package, folder: folder.join("asan"), asan: true };
    let base = instrumented.base(kernels);
    let again = judge_all(&instrumented, kernels, (&base, &program), &mutants, options.jobs, &|_| ());
    verdicts.extend(again);
    save(&verdicts);
    verdicts
}

/// What became of each mutant; `save` learns of all so far after every one.
fn judge_all(
    workshop: &Workshop,
    kernels: &Kernels,
    (base, program): (&[PathBuf], &Path),
    mutants: &[Mutant],
    jobs: usize,
    save: &(dyn Fn(&[Verdict]) + Sync),
) -> Vec<Verdict> {
    let start = Instant::now();
    assert_sound(workshop, program, mutants);
    let todo = Mutex::new(mutants.iter().enumerate());
    let verdicts = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for worker in 0..jobs {
            let (todo, verdicts) = (&todo, &verdicts);
            scope.spawn(move || {
                loop {
                    let next = todo.lock().expect("no worker panics with it").next();
                    let Some((at, mutant)) = next else { break };
                    let start = Instant::now();
                    let outcome = workshop.judge(worker, kernels, base, program, mutant);
                    let seconds = start.elapsed().as_secs_f64();
                    eprintln!("{at}: {} {outcome:?} {seconds:.1} s", report::line(mutant));
                    let verdict = Verdict { mutant: mutant.clone(), outcome, seconds };
                    let mut verdicts = verdicts.lock().expect("no worker panics with it");
                    verdicts.push(verdict);
                    save(&verdicts);
                }
            });
        }
    });
    eprintln!("all: {} s", start.elapsed().as_secs());
    verdicts.into_inner().expect("no worker panicked")
}

/// Kernels that fail by themselves prove nothing about mutants.
fn assert_sound(workshop: &Workshop, program: &Path, mutants: &[Mutant]) {
    let mut families: Vec<&str> = mutants.iter().map(|mutant| mutant.family.as_str()).collect();
    families.sort_unstable();
    families.dedup();
    for family in families.into_iter().filter(|family| *family != "shared") {
        let start = Instant::now();
        let outcome = workshop.test(program, &workshop.folder.join("base"), family);
        eprintln!("{family} as it is: {outcome:?} {:.1} s", start.elapsed().as_secs_f64());
        assert_eq!(outcome, Outcome::Survived, "{family}");
    }
}
