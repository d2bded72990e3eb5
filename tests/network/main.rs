//! Ranks on machines of their own: network namespaces, joined by a hub that may be slow, lose frames or be cut. Needs
//! root, iproute2, Python 3 and Open MPI.
//!
//! - `lab`: the machines. `meeting`: the rendezvous, by this program's own ranks. `training`: whole runs under mpirun.

mod lab;
mod meeting;
#[path = "../support/run.rs"]
mod run;
mod training;

use std::process::{Child, Output};
use std::time::{Duration, Instant};

/// What a rank of which nothing is heard costs the others at most: eight seconds, and a loaded machine.
const END: Duration = Duration::from_secs(12);

/// Waits for the end of a process, which must come in time.
fn end(mut child: Child, within: Duration) -> Output {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > within {
            child.kill().unwrap();
            panic!("no end within {within:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}
