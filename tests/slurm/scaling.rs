//! A sweep over nodes in one job, by the script that users submit; and the job after it, which finds it done.

use std::path::Path;

use tisserand_launch::scaling::report::Report;

use super::cluster::{Job, quoted};
use super::run::Run;

/// Submits launch/scaling.sbatch on four nodes, and waits for its end.
fn sweep(run: &Run, out: &str) -> Job {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("launch/scaling.sbatch");
    let sweep = ["--weak", "--synthetic", "--steps", "3", "--warmup", "1", "--repeats", "1", "--out", out];
    let mut words = vec![script.display().to_string()];
    words.extend(run.run_file());
    words.extend(sweep.map(str::to_owned));
    words.push("--launcher-arg=--mpi=pmix".to_owned());
    let script = format!("TISSERAND='{}' {}\n", env!("CARGO_BIN_EXE_tisserand"), quoted(&words));
    let job = Job::submit(run, &["--nodes=4", "--ntasks-per-node=1"], &script);
    job.wait_for("COMPLETED");
    job
}

#[test]
fn one_job_measures_one_two_and_four_nodes_and_the_next_finds_them_measured() {
    let run = Run::new(&[]);
    let out = run.dir().with_file_name("scaling");
    let first = sweep(&run, out.to_str().unwrap());
    let text = std::fs::read_to_string(out.join("scaling.json")).unwrap();
    let report: Report = serde_json::from_str(&text).unwrap();
    let ranks: Vec<usize> = report.points.iter().map(|point| point.ranks).collect();
    assert_eq!(ranks, [1, 2, 4], "{}", first.log());
    assert!(report.failures.is_empty() && report.bandwidth[0].ranks == 4, "{:?}", report.failures);
    assert_eq!(report.points[2].hosts, ["node1", "node2", "node3", "node4"]);
    let network = &report.environment.network;
    assert!(network.iter().any(|line| line.starts_with("Open MPI v")), "{network:?}");
    let job_id = ("SLURM_JOB_ID".to_owned(), first.id.clone());
    assert!(report.environment.variables.contains(&job_id));
    let next = sweep(&run, out.to_str().unwrap());
    let again = std::fs::read_to_string(out.join("scaling.json")).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&again).unwrap(), report, "{}", next.log());
}
