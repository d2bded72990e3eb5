//! A disk that is full during a save, and files that are torn: nothing is lost.

use std::fs;
use std::os::unix::fs::symlink;

use nix::sys::signal::Signal;

use super::cluster::{ask, small_disk};
use super::disk_support::{clear, fill, tear_unfinished};
use super::run::{Run, tisserand};
use super::{FOUR_NODES, INVARIANT, ONE_NODE, TWO_NODES, lines, pids, send, step, wait_until};

fn newest(run: &Run) -> String {
    fs::read_to_string(run.dir().join("checkpoints/latest")).unwrap_or_default()
}

#[test]
fn a_full_disk_loses_no_checkpoint_and_the_run_goes_on_when_there_is_room() {
    let whole = Run::endless(&INVARIANT).and(&["checkpoint.every_steps=4"]);
    let run = whole.and(&[]);
    // The nodes see no file system that was mounted after they started.
    let disk = small_disk();
    symlink(disk.join("run"), run.dir()).unwrap();
    fs::create_dir(disk.join("run")).unwrap();
    // Fills while it runs: saves fail, the run goes on, and the save that it is stopped with ends it.
    let name = format!("full-{}", std::process::id());
    let running = step(&run, &FOUR_NODES, &[&format!("--job-name={name}")]);
    wait_until("a checkpoint", || !newest(&run).is_empty());
    fill(&disk);
    wait_until("a save that fails", || {
        running.said().contains("warning: checkpoint failed, the run goes on: ")
    });
    ask("scancel", &["--signal=USR1", &format!("--name={name}")]);
    let said = running.exits(1);
    assert!(said.contains("No space left on device"), "{said}");
    assert!(lines(&said, "error: ") <= 1, "{said}");
    tisserand(["checkpoint", "verify", &run.dir_name()]);
    // Full from the start.
    let (code, said) = step(&run, &TWO_NODES, &["--kill-on-bad-exit=1"]).end();
    assert!(![0, 75].contains(&code), "{code}: {said}");
    assert!(lines(&said, "error: ") == 1 && said.contains("no space left on the file system"), "{said}");
    tisserand(["checkpoint", "verify", &run.dir_name()]);
    clear(&disk);
    run.end_soon(&whole);
    step(&run, &TWO_NODES, &[]).exits(0);
    whole.exits(0);
    assert_eq!(run.digest(), whole.digest());
}

/// All ranks are killed at once, as with a power cut, and what they were writing is cut in half.
#[test]
fn a_torn_write_loses_nothing() {
    let whole = Run::endless(&INVARIANT).and(&["checkpoint.every_steps=1"]);
    let run = whole.and(&[]);
    let mut torn = 0;
    for start in &[FOUR_NODES, TWO_NODES, FOUR_NODES] {
        let before = run.status_step().unwrap_or(0);
        let mut step = step(&run, start, &[]);
        step.reach(&run, before + 4);
        pids(&run).into_iter().for_each(|pid| send(pid, Signal::SIGKILL));
        let (code, said) = step.end();
        assert!(![0, 75].contains(&code), "{code}: {said}");
        torn += tear_unfinished(&run.dir());
        tisserand(["checkpoint", "verify", &run.dir_name()]);
    }
    run.end_soon(&whole);
    step(&run, &ONE_NODE, &[]).exits(0);
    whole.exits(0);
    run.assert_equals(&whole);
    let left = fs::read_dir(run.dir().join("checkpoints")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().ends_with(".tmp")));
    println!("{torn} files torn");
}
