//! Tests of the lock with holders that are forged rather than started; with real processes:
//! `tests/run_folder.rs`.

use std::io::Write;

use super::*;
use crate::run::host::host_name;

const FAST: Timing = Timing {
    beat: Duration::from_millis(20),
    stale: Duration::from_millis(200),
    watch: Duration::from_millis(60),
};

fn acquire(dir: &Path, notices: &mut Vec<String>) -> Result<RunLock> {
    RunLock::acquire_with(dir, &Access::umask(), "2", |line| notices.push(line.to_owned()), FAST)
}

/// A lock file left by `holder`, whose last heartbeat was `age` ago.
fn leave(dir: &Path, holder: &Holder, age: Duration) {
    let file = File::create(dir.join(FILE_NAME)).unwrap();
    (&file).write_all(serde_json::to_string(holder).unwrap().as_bytes()).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

fn elsewhere() -> Holder {
    Holder { host: "node12".to_owned(), pid: 77, ..Holder::this_process("123") }
}

/// A process id that no process has: the largest is below 2^22 on Linux.
const NO_PROCESS: u32 = i32::MAX as u32;

#[test]
fn held_once_and_free_again_after_the_drop() {
    let dir = tempfile::tempdir().unwrap();
    let held = acquire(dir.path(), &mut Vec::new()).unwrap();
    held.check().unwrap();
    let error = acquire(dir.path(), &mut Vec::new()).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let text = error.to_string();
    let name = format!("is in use by job 2 (pid {} on {}, since ", std::process::id(), host_name());
    assert!(text.contains(&name) && text.contains("last heartbeat") && text.contains("hint: "), "{text}");
    drop(held);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    acquire(dir.path(), &mut Vec::new()).unwrap();
}

#[test]
fn a_dead_holder_on_this_machine_is_taken_over_from_at_once() {
    for flock in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let dead = Holder { pid: NO_PROCESS, flock, ..Holder::this_process("1") };
        leave(dir.path(), &dead, Duration::ZERO);
        let mut notices = Vec::new();
        acquire(dir.path(), &mut notices).unwrap();
        assert_eq!(notices.len(), 1);
        assert!(notices[0].contains("over from job 1 (pid") && notices[0].contains("alive"), "{notices:?}");
    }
}

#[test]
fn a_reused_process_id_does_not_pass_for_the_holder_where_flock_works() {
    let dir = tempfile::tempdir().unwrap();
    leave(dir.path(), &Holder { flock: true, ..Holder::this_process("1") }, Duration::ZERO);
    acquire(dir.path(), &mut Vec::new()).unwrap();
}

#[test]
fn without_flock_a_living_process_of_this_machine_is_respected_however_silent() {
    let dir = tempfile::tempdir().unwrap();
    leave(dir.path(), &Holder::this_process("1"), Duration::from_secs(3600));
    acquire(dir.path(), &mut Vec::new()).unwrap_err();
}

#[test]
fn a_holder_elsewhere_that_beats_is_refused_at_its_next_beat() {
    let dir = tempfile::tempdir().unwrap();
    leave(dir.path(), &elsewhere(), Duration::ZERO);
    let path = dir.path().join(FILE_NAME);
    let beat = |line: &str| {
        assert!(line.contains("watching it for"), "{line}");
        File::options().write(true).open(&path).unwrap().set_modified(SystemTime::now()).unwrap();
    };
    let acquired = RunLock::acquire_with(dir.path(), &Access::umask(), "2", beat, FAST);
    let error = acquired.unwrap_err().to_string();
    assert!(error.contains("is in use by job 123 (pid 77 on node12, since "), "{error}");
}

/// As after a job that was killed, when the next one of a chain begins on another node.
#[test]
fn a_holder_elsewhere_that_has_just_died_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    leave(dir.path(), &elsewhere(), Duration::ZERO);
    let (mut notices, began) = (Vec::new(), std::time::Instant::now());
    acquire(dir.path(), &mut notices).unwrap();
    assert!(began.elapsed() >= FAST.stale + FAST.watch - FAST.beat, "{:?}", began.elapsed());
    assert!(notices[1].contains("over from job 123 (pid 77 on node12"), "{notices:?}");
}

#[test]
fn a_holder_elsewhere_that_stays_silent_is_taken_over_from() {
    let dir = tempfile::tempdir().unwrap();
    leave(dir.path(), &elsewhere(), Duration::from_secs(75));
    let mut notices = Vec::new();
    acquire(dir.path(), &mut notices).unwrap();
    assert!(notices[0].contains("silent for 1m15s; watching"), "{notices:?}");
    assert!(notices[1].contains("over from job 123 (pid 77 on node12"), "{notices:?}");
}

#[test]
fn a_holder_elsewhere_whose_clock_is_behind_is_seen_to_beat() {
    let dir = tempfile::tempdir().unwrap();
    leave(dir.path(), &elsewhere(), Duration::from_secs(3600));
    let path = dir.path().join(FILE_NAME);
    let beat = |line: &str| {
        assert!(line.contains("watching"), "{line}");
        let late = SystemTime::now() - Duration::from_secs(3590);
        File::options().write(true).open(&path).unwrap().set_modified(late).unwrap();
    };
    RunLock::acquire_with(dir.path(), &Access::umask(), "2", beat, FAST).unwrap_err();
}

#[test]
fn a_damaged_lock_file_counts_by_its_heartbeat() {
    let dir = tempfile::tempdir().unwrap();
    let file = File::create(dir.path().join(FILE_NAME)).unwrap();
    let beat = |_: &str| file.set_modified(SystemTime::now() + Duration::from_secs(1)).unwrap();
    let acquired = RunLock::acquire_with(dir.path(), &Access::umask(), "2", beat, FAST);
    let error = acquired.unwrap_err().to_string();
    assert!(error.contains("in use by an unknown job (last heartbeat"), "{error}");
    file.set_modified(SystemTime::now() - Duration::from_secs(61)).unwrap();
    acquire(dir.path(), &mut Vec::new()).unwrap();
}

#[test]
fn the_heartbeat_is_renewed() {
    let dir = tempfile::tempdir().unwrap();
    let _held = acquire(dir.path(), &mut Vec::new()).unwrap();
    let path = dir.path().join(FILE_NAME);
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
    thread::sleep(10 * FAST.beat);
    assert!(fs::metadata(&path).unwrap().modified().unwrap() > long_ago + Duration::from_secs(3000));
}

#[test]
fn check_restores_a_deleted_lock_and_reports_one_that_was_taken() {
    let dir = tempfile::tempdir().unwrap();
    let held = acquire(dir.path(), &mut Vec::new()).unwrap();
    fs::remove_file(dir.path().join(FILE_NAME)).unwrap();
    held.check().unwrap();
    acquire(dir.path(), &mut Vec::new()).unwrap_err();
    fs::remove_file(dir.path().join(FILE_NAME)).unwrap();
    leave(dir.path(), &elsewhere(), Duration::ZERO);
    let error = held.check().unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("taken over by job 123 (pid 77 on node12"), "{error}");
    drop(held);
    assert!(dir.path().join(FILE_NAME).exists(), "another's lock is left alone");
}

#[test]
fn a_removal_that_comes_too_late_puts_the_winners_lock_back() {
    let dir = tempfile::tempdir().unwrap();
    leave(dir.path(), &Holder { pid: NO_PROCESS, ..Holder::this_process("1") }, Duration::ZERO);
    let place = Place { path: dir.path().join(FILE_NAME), access: Access::umask() };
    let judged = place.look().unwrap().unwrap();
    let winner = acquire(dir.path(), &mut Vec::new()).unwrap();
    assert!(!place.remove(&judged).unwrap());
    assert!(!place.rename_aside(&judged).unwrap(), "also where flock says nothing");
    assert!(place.holds(&lock(&winner.file)).unwrap());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn of_many_threads_one_wins_on_a_free_and_on_an_abandoned_folder() {
    for round in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        if round % 2 == 0 {
            leave(dir.path(), &Holder { pid: NO_PROCESS, ..Holder::this_process("1") }, Duration::ZERO);
        }
        let start = std::sync::Barrier::new(8);
        let contend = || {
            start.wait();
            acquire(dir.path(), &mut Vec::new())
        };
        let results: Vec<Result<RunLock>> = thread::scope(|scope| {
            let starters: Vec<_> = (0..8).map(|_| scope.spawn(contend)).collect();
            starters.into_iter().map(|starter| starter.join().unwrap()).collect()
        });
        let winners: Vec<&RunLock> = results.iter().flatten().collect();
        assert_eq!(winners.len(), 1, "round {round}");
        winners[0].check().unwrap();
    }
}
