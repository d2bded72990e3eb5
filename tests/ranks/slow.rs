//! A rank that is slow and not late: the metrics say which, and how long single steps take.

use crate::faulty::{self, Fault, How};
use crate::run::{Run, errors};
use crate::support::mesh;

#[test]
fn metrics_name_the_rank_that_all_wait_for() {
    let mesh = mesh(1, 4, 3);
    let mut run = Run::new(&["training.global_batch=8", "training.micro_batch=1", "eval.every_steps=0"]);
    run.set_mesh(mesh);
    let fault = Fault { rank: 2, communicator: "gather", step: 5, calls: 1, how: How::Sleep(2000) };
    let output = faulty::command(fault, mesh.ranks(), &run.run_file()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let records = run.records("step");
    assert_eq!(records.len(), 10);
    assert!(records[0]["slowest"].is_null(), "{}", records[0]);
    for record in &records {
        let [p50, p99] = ["step_p50_s", "step_p99_s"].map(|field| record[field].as_f64().unwrap());
        assert!(0.0 < p50 && p50 <= p99, "{record}");
    }
    assert!(records[4]["step_p99_s"].as_f64().unwrap() >= 2.0, "{}", records[4]);
    // Of step 5, on the line after it.
    let slowest = &records[5]["slowest"];
    let host = tisserand_collectives::control::host_name();
    assert_eq!((&slowest["rank"], &slowest["host"]), (&2.into(), &host.into()), "{slowest}");
    let share = slowest["busy_share"].as_f64().unwrap();
    assert!(share > 0.8 && share <= 1.0, "{slowest}");
}

#[test]
fn one_rank_waits_for_nobody_and_an_interval_has_its_own_times() {
    let run = Run::new(&["log.every_steps=5", "training.steps=20"]);
    run.exits(0);
    let records = run.records("step");
    assert_eq!(records.len(), 5);
    for record in &records {
        assert!(record["slowest"].is_null(), "{record}");
        let [p50, p99, mean] =
            ["step_p50_s", "step_p99_s", "step_s"].map(|field| record[field].as_f64().unwrap());
        // Between two lines there is more than the steps.
        assert!(0.0 < p50 && p50 <= p99 && p50 <= 5.0 * mean, "{record}");
    }
}
