//! What does not start says why, once.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use super::run::{Run, errors};
use super::{MESHES, exits, processes};

#[test]
fn ranks_of_a_launcher_and_ranks_that_are_threads_exclude_each_other() {
    let run = Run::new(&[]);
    let mut command = processes(&run, MESHES[0]);
    command.args(["--ranks", "2"]);
    let said = exits(&run, command, 2);
    let lines = |start: &str| said.lines().filter(|line| line.starts_with(start)).count();
    assert_eq!(
        lines("error: --ranks 2 makes ranks of threads, but this process is rank 0 of 2"),
        1,
        "{said}"
    );
    assert_eq!(lines("error: "), 1, "{said}");
    assert!(!run.dir().exists());
    // One process may.
    let mut command = processes(&run, (1, &[]));
    command.args(["--ranks", "2"]);
    exits(&run, command, 0);
}

/// What every rank refuses is said by rank 0.
#[test]
fn bad_input_is_told_once() {
    let run = Run::new(&["mesh.dp_shard=3"]);
    let said = exits(&run, processes(&run, (2, &[])), 2);
    assert_eq!(said.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{said}");
    assert!(said.contains("multiply to 3, but the run has 2 ranks"), "{said}");
    // Found by rank 0 alone, when all have met.
    let run = Run::new(&[]);
    run.exits(0);
    let mut command = processes(&run, MESHES[0]);
    command.arg("--fresh");
    let said = exits(&run, command, 2);
    assert_eq!(said.lines().filter(|line| line.contains("error: ")).count(), 1, "{said}");
    assert!(said.contains("--fresh: ") && said.contains("is not empty"), "{said}");
    assert!(!said.contains("rank  host"), "{said}");
    // A new folder holds nothing, also not the secret.
    let run = Run::new(&["training.steps=2"]);
    let mut command = processes(&run, MESHES[0]);
    command.arg("--fresh");
    exits(&run, command, 0);
    let left = fs::read_dir(run.dir()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().contains(".control")));
}

/// A rank by RANK and WORLD_SIZE, without a launcher.
fn by_variables(run: &Run, rank: usize, port: &str) -> Command {
    let mut command = run.command();
    command.env("RANK", rank.to_string()).env("WORLD_SIZE", "2").env("MASTER_ADDR", "localhost");
    command.env("MASTER_PORT", port);
    command
}

#[test]
fn a_secret_that_does_not_come_and_one_that_is_none_are_named() {
    let run = Run::new(&["run.collective_timeout_s=1.0"]);
    let said = exits(&run, by_variables(&run, 1, "29517"), 1);
    let expected = format!("error: rank 1: {}/.control-local did not come within 1 s", run.dir_name());
    assert!(said.starts_with(&expected) && said.contains("share run.dir"), "{said}");
    fs::create_dir_all(run.dir()).unwrap();
    let path = run.dir().join(".control-local");
    fs::write(&path, [7; 32]).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let said = exits(&run, by_variables(&run, 1, "29517"), 1);
    assert!(said.contains(".control-local") && said.contains("others may read it"), "{said}");
}

/// What a launch that died left behind is not taken for the secret of this one.
#[test]
fn an_old_secret_is_given_up_for_the_new_one_and_mpi_must_count_as_the_launcher_does() {
    let run = Run::new(&["run.collective_timeout_s=20.0"]);
    fs::create_dir_all(run.dir()).unwrap();
    let path = run.dir().join(".control-local");
    fs::write(&path, [7; 32]).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let second = by_variables(&run, 1, "29518").spawn().unwrap();
    // It has read the old one, and calls.
    std::thread::sleep(Duration::from_millis(500));
    let first = by_variables(&run, 0, "29518").output().unwrap();
    let second = second.wait_with_output().unwrap();
    // Both have met; without mpirun, each is alone for MPI.
    let said = errors(&first) + &errors(&second);
    assert_eq!((first.status.code(), second.status.code()), (Some(2), Some(2)), "{said}");
    assert_eq!(said.matches("error: ").count(), 1, "{said}");
    assert!(said.contains("MPI counts this process as rank 0 of 1, but it is rank "), "{said}");
    assert!(!path.exists());
}
