//! `tisserand bench scaling` on ranks that are threads: its files, going on after a cut, failures, refusals.

#[path = "support/run.rs"]
mod run;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use run::{Run, errors};
use tisserand_launch::scaling::report::Report;
use tisserand_launch::scaling::{csv, html, tex, text};

/// A sweep of a tiny run, in a folder of its own.
struct Sweep {
    run: Run,
    arguments: Vec<String>,
}

impl Sweep {
    fn new(sets: &[&str], arguments: &[&str]) -> Sweep {
        Sweep { run: Run::new(sets), arguments: arguments.iter().map(|word| (*word).to_owned()).collect() }
    }

    fn dir(&self) -> PathBuf {
        self.run.dir().with_file_name("scaling")
    }

    /// Runs the sweep with more arguments.
    fn start(&self, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tisserand"));
        command.args(["bench", "scaling"]).args(self.run.run_file()).args(&self.arguments).args(more);
        command.arg("--out").arg(self.dir());
        for variable in ["SLURM_JOB_ID", "SLURM_JOB_NUM_NODES", "SLURM_NNODES", "SLURM_NTASKS_PER_NODE"] {
            command.env_remove(variable);
        }
        // Where ranks that are processes meet: other tests may be under way.
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        command.env("MASTER_PORT", port.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap()
    }

    fn exits(&self, more: &[&str], code: i32) -> (String, String) {
        let output = self.start(more);
        assert_eq!(output.status.code(), Some(code), "{}", errors(&output));
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr))
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.dir().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    fn report(&self) -> Report {
        serde_json::from_str(&self.read("scaling.json")).unwrap()
    }
}

const SHORT: [&str; 6] = ["--steps", "3", "--warmup", "1", "--repeats", "2"];

/// A profile of nothing in particular.
const PROFILE: &str = r#"
[gpu]
name = "a CPU"
bf16_flop_per_s = 1e11
f32_flop_per_s = 5e10
memory_bytes_per_s = 1e10
memory_bytes = 1_000_000_000
[node]
gpus = 2
link_bytes_per_s = 1e9
nic_bytes_per_s = 1e9
"#;

#[test]
fn every_file_tells_of_every_point_and_is_made_of_the_same_figures() {
    let sweep = Sweep::new(&[], &["--ranks", "2,1", "--weak"]);
    let profile = sweep.run.dir().with_file_name("cpu.toml");
    fs::write(&profile, PROFILE).unwrap();
    let with_profile = [&SHORT[..], &["--profile", profile.to_str().unwrap()]].concat();
    let (table, progress) = sweep.exits(&with_profile, 0);
    assert!(
        progress.contains("1 of 5: 1 rank, repeat 1") && progress.contains("5 of 5: bandwidth"),
        "{progress}"
    );
    let report = sweep.report();
    assert_eq!(text::report(&report), table);
    assert_eq!(csv::report(&report), sweep.read("scaling.csv"));
    assert_eq!(tex::report(&report), sweep.read("scaling.tex"));
    assert_eq!(html::report(&report), sweep.read("scaling.html"));
    let of = |point: usize| &report.points[point];
    assert_eq!((report.points.len(), of(0).ranks, of(1).ranks), (2, 1, 2));
    assert_eq!((of(0).global_batch, of(1).global_batch, of(1).mesh.dp_shard), (4, 8, 2));
    for point in &report.points {
        let step = point.step_s;
        assert_eq!((step.count, point.repeats.as_slice()), (6, [1, 2].as_slice()));
        assert!(step.min > 0.0 && step.min <= step.q1 && step.q1 <= step.median && step.q3 <= step.max);
        let parts = point.breakdown;
        let sum = parts.compute_s + parts.exposed_s + parts.data_s + parts.other_s;
        // The parts are means over all ranks, the steps are those of rank 0.
        assert!(parts.compute_s > 0.0 && (0.5..2.0).contains(&(sum / step.mean)), "{parts:?} {step:?}");
        let per_rank = point.tokens_per_s / point.ranks as f64;
        assert_eq!(point.tokens_per_s_per_rank, per_rank);
        let mfu = point.utilization.unwrap();
        let expected = per_rank * report.model.flops_per_token_full / report.model.peak_flop_per_s.unwrap();
        assert!((mfu.mfu_full / expected - 1.0).abs() < 1e-12 && mfu.mfu_causal < mfu.mfu_full);
        assert!(point.predicted.unwrap().step_s > 0.0 && point.loss.is_finite());
    }
    assert_eq!(of(0).efficiency.unwrap().value, 1.0);
    // The measured steps are those of the run: the fourth has its loss, bit for bit.
    sweep.run.exits(0);
    assert_eq!(of(0).loss, sweep.run.losses()[3] as f32);
    // One rank alone waits for nobody, and sends nothing.
    assert_eq!((of(0).exposed_share, of(0).traffic.len()), (0.0, 0));
    let gathers = of(1).traffic.iter().find(|row| row.kind == "all_gather").unwrap();
    assert!(
        gathers.axis == "dp_shard" && gathers.sent_bytes_per_step == gathers.payload_bytes_per_step / 2.0
    );
    let [bandwidth] = &report.bandwidth[..] else { panic!("{:?}", report.bandwidth) };
    assert_eq!(
        (bandwidth.axis.as_str(), bandwidth.ranks, bandwidth.sizes[0].payload_bytes),
        ("dp_shard", 2, 1 << 16)
    );
    let row = &bandwidth.sizes[0];
    assert_eq!(row.bus_bytes_per_s, row.algorithm_bytes_per_s, "2 (n - 1) / n is 1 for two ranks");
    assert!(report.environment.program.rustc.is_some() && report.environment.machine.kernel.is_some());
    assert_eq!(report.sweep.run_file, fs::read_to_string(&report.sweep.run_file_path).unwrap());
}

#[test]
fn a_sweep_that_was_cut_off_goes_on_with_what_is_missing() {
    let sweep = Sweep::new(&["training.micro_batch=1"], &["--ranks", "1,2", "--strong", "--synthetic"]);
    sweep.exits(&SHORT, 0);
    let point = sweep.dir().join("points/ranks-2-repeat-2.json");
    let kept = sweep.read("points/ranks-1-repeat-1.json");
    fs::remove_file(&point).unwrap();
    let (_, refused) = sweep.exits(&SHORT, 2);
    assert!(refused.contains("a sweep is there already; hint: --resume"), "{refused}");
    let (_, other) = sweep.exits(&["--steps", "4", "--warmup", "1", "--repeats", "2", "--resume"], 2);
    assert!(other.contains("was begun with another --steps"), "{other}");
    let (json, progress) = sweep.exits(&[&SHORT[..], &["--resume", "--json"]].concat(), 0);
    assert!(point.exists() && !progress.contains("1 of 5: 1 rank, repeat 1\n"), "{progress}");
    assert_eq!(sweep.read("points/ranks-1-repeat-1.json"), kept);
    let report: Report = serde_json::from_str(&json).unwrap();
    assert_eq!(report, sweep.report());
    assert!(report.points.iter().all(|point| point.global_batch == 4 && point.utilization.is_none()));
    assert!(report.points[1].breakdown.data_s < report.points[1].breakdown.compute_s);
}

#[test]
fn a_point_that_fails_is_told_with_its_last_lines_and_the_others_are_reported() {
    // A third of the data may be seen, which is enough for the smaller batch alone.
    let sources = format!("data.sources=[{{ path = '{}', max_epochs = 0.35 }}]", run::Corpus::get().tokens());
    let sets = [sources.as_str()];
    let sweep =
        Sweep::new(&sets, &["--ranks", "1,2", "--weak", "--steps", "6", "--warmup", "1", "--repeats", "1"]);
    let (table, progress) = sweep.exits(&["--set", "training.global_batch=4"], 1);
    let report = sweep.report();
    assert_eq!((report.points.len(), report.failures.len()), (1, 1), "{table}\n{progress}");
    let failure = &report.failures[0];
    assert_eq!((failure.turn.as_str(), failure.how.as_str()), ("2 ranks, repeat 1", "exit code 2"));
    assert!(failure.last_lines.iter().any(|line| line.contains("max_epochs")), "{failure:?}");
    assert!(progress.contains("2 ranks, repeat 1 failed: exit code 2; the last lines of "), "{progress}");
    assert!(
        table.contains("failed: 2 ranks, repeat 1: exit code 2")
            && sweep.read("scaling.html").contains("max_epochs")
    );
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_runs() {
    let ranks = |arguments: &[&str]| {
        let sweep = Sweep::new(&["training.global_batch=6"], &[]);
        let (_, error) = sweep.exits(arguments, 2);
        assert!(!sweep.dir().exists(), "{error}");
        error
    };
    let batch = ranks(&["--ranks", "1,2", "--strong"]);
    let expected = "error: 2 ranks of --ranks: ";
    assert!(
        batch.starts_with(expected) && batch.contains("not a multiple of micro_batch × data-parallel"),
        "{batch}"
    );
    assert_eq!(batch.lines().count(), 1, "{batch}");
    let weak = ranks(&[
        "--ranks",
        "2,3",
        "--weak",
        "--set",
        "training.micro_batch=1",
        "--set",
        "mesh.dp_shard=1",
        "--set",
        "mesh.tp=\"auto\"",
        "--set",
        "training.global_batch=3",
    ]);
    assert!(weak.contains("--weak --ranks 3: training.global_batch = 3 at 2 ranks would become"), "{weak}");
    let nodes = ranks(&["--nodes", "2", "--weak"]);
    assert!(nodes.starts_with("error: --nodes 2: this is no Slurm allocation; hint: "), "{nodes}");
    assert!(ranks(&["--ranks", "1"]).contains("--weak"));
    assert!(ranks(&["--ranks", "0", "--weak"]).contains("a number from 1 to 1024"));
    assert!(ranks(&["--ranks", "1", "--nodes", "1", "--weak"]).contains("cannot be used with"));
    assert!(ranks(&["--ranks", "1", "--weak", "--profile", "none"]).contains("no profile \"none\""));
    let launcher = ranks(&["--ranks", "3", "--weak", "--launcher", "srun"]);
    assert!(launcher.contains("--nodes instead of --ranks"), "{launcher}");
    if cfg!(not(any(feature = "mpi", feature = "nccl"))) {
        let processes = ranks(&["--ranks", "2", "--weak", "--launcher", "mpirun"]);
        assert!(processes.contains("built without MPI and NCCL; hint: cargo build"), "{processes}");
    }
}

#[cfg(feature = "mpi")]
#[test]
fn processes_are_measured_as_threads_are() {
    let by_mpirun =
        ["--launcher", "mpirun", "--launcher-arg=--oversubscribe", "--launcher-arg=--allow-run-as-root"];
    let sweep = Sweep::new(&[], &[&["--ranks", "1,2", "--weak", "--synthetic"], &by_mpirun[..]].concat());
    let (table, _) = sweep.exits(&SHORT, 0);
    let report = sweep.report();
    let largest = report.points.last().unwrap();
    assert!(table.contains("ranks started by mpirun") && report.failures.is_empty(), "{table}");
    assert_eq!((largest.ranks, largest.step_s.count, largest.traffic.is_empty()), (2, 6, false));
    assert_eq!((report.bandwidth.len(), report.bandwidth[0].ranks), (1, 2));
}
