//! Two jobs on one run folder: the second one says who is there, and changes nothing.

use super::cluster::ask;
use super::{FOUR_NODES, INVARIANT, TWO_NODES, lines, one_rank, step};

#[test]
fn the_second_job_names_the_first_which_goes_on() {
    let mut sets = INVARIANT.to_vec();
    sets.push("training.steps=30");
    let whole = one_rank(&sets);
    let run = whole.and(&[]);
    let name = format!("first-{}", std::process::id());
    let mut first = step(&run, &FOUR_NODES, &[&format!("--job-name={name}")]);
    first.reach(&run, 1);
    let id = ask("squeue", &["--noheader", "--format=%i", &format!("--name={name}")]);
    let said = step(&run, &TWO_NODES, &[]).exits(2);
    assert_eq!(lines(&said, "error: "), 1, "{said}");
    assert!(said.contains(&format!("job {id}")) && said.contains("hint: "), "{said}");
    assert!(lines(&said, "rank  host") == 0, "{said}");
    first.exits(0);
    run.assert_equals(&whole);
}
