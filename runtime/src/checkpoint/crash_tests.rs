//! A save that dies, or is refused by the disk, at each of its file operations in turn.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tisserand_kernels::DType;

use super::disk::Disk;
use super::save::save_on;
use super::step_writer::Documents;
use super::*;
use crate::Result;

/// What [`Disk`] asks before each operation.
#[derive(Clone, Debug, Default)]
pub(super) struct Trap {
    plan: Option<Plan>,
    passed: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, Debug)]
enum Plan {
    /// The process dies at this operation: it and all later ones do nothing.
    Kill(usize),
    /// Only this operation fails, with this errno.
    Fail(usize, i32),
}

impl Trap {
    fn disk(plan: Plan) -> Disk {
        Disk { trap: Trap { plan: Some(plan), ..Trap::default() }, ..Disk::default() }
    }

    /// Counts an operation.
    pub(super) fn pass(&self) -> io::Result<()> {
        let operation = self.passed.fetch_add(1, Ordering::SeqCst);
        match self.plan {
            Some(Plan::Kill(at)) if operation >= at => Err(io::Error::other("killed")),
            Some(Plan::Fail(at, errno)) if operation == at => Err(io::Error::from_raw_os_error(errno)),
            _ => Ok(()),
        }
    }

    /// Whether the next operation is the one at which the process dies.
    pub(super) fn springs_next(&self) -> bool {
        matches!(self.plan, Some(Plan::Kill(at)) if at == self.passed.load(Ordering::SeqCst))
    }
}

fn job(dir: &Path, step: u64, value: f32, keep_last: Option<usize>) -> SaveJob {
    let tensor = |name: &str| {
        let values: Vec<f32> = (0..6).map(|i| value + i as f32).collect();
        TensorData::whole(TensorSpec::new(name, [2, 3], DType::F32), bytemuck::cast_slice(&values).to_vec())
    };
    let snapshot = Snapshot {
        weights: vec![tensor("a"), tensor("b")],
        optimizer: ["master.a", "exp_avg.a", "exp_avg_sq.a"].map(tensor).to_vec(),
    };
    let documents = Documents {
        trainer: TrainerState { step, ..TrainerState::default() },
        config_json: "{}".into(),
        tokenizer: None,
        mesh: MeshAxes::default(),
    };
    let options =
        SaveOptions { max_file_bytes: 24, optimizer_files: 2, threads: 1, ..SaveOptions::default() };
    let retention = keep_last.map(|keep_last| Retention { keep_last, ..Retention::default() });
    SaveJob { checkpoints_dir: dir.into(), crew: Crew::default(), snapshot, documents, options, retention }
}

/// Prepares a folder, lets `attack` save into it once per operation until a save gets through, and calls
/// `check` after each.
fn at_every_operation(
    prepare: impl Fn(&Path),
    plan: impl Fn(usize) -> Plan,
    attacked: impl Fn(&Path) -> SaveJob,
    check: impl Fn(&Path, usize, &Result<Saved>),
) {
    for operation in 0.. {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("checkpoints");
        prepare(&dir);
        let disk = Trap::disk(plan(operation));
        let trap = disk.trap.clone();
        let result = save_on(disk, &attacked(&dir));
        check(&dir, operation, &result);
        if trap.passed.load(Ordering::SeqCst) <= operation {
            assert!(operation > 30, "only {operation} operations: the save is not what it was");
            return;
        }
    }
}

fn found(dir: &Path) -> (u64, PathBuf, String) {
    let Latest { checkpoint, .. } = latest(dir).unwrap();
    let (step, path) = checkpoint.expect("a complete checkpoint");
    let report = verify(&path).unwrap();
    assert!(report.is_ok(), "{report}");
    (step, path.clone(), digest(&path).unwrap())
}

fn leftovers(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".tmp") || name.ends_with(".old")).collect()
}

/// Digests of the checkpoints that the tests write: (step, value).
fn digest_of(step: u64, value: f32) -> String {
    let parent = tempfile::tempdir().unwrap();
    save(&job(parent.path(), step, value, None)).unwrap();
    digest(parent.path()).unwrap()
}

#[test]
fn a_kill_at_any_operation_leaves_a_whole_checkpoint() {
    let (one, two) = (digest_of(1, 1.0), digest_of(2, 2.0));
    let prepare = |dir: &Path| drop(save(&job(dir, 1, 1.0, None)).unwrap());
    let attacked = |dir: &Path| job(dir, 2, 2.0, Some(1));
    at_every_operation(prepare, Plan::Kill, attacked, |dir, operation, result| {
        let (step, _, digest) = found(dir);
        assert_eq!(digest, if step == 1 { one.clone() } else { two.clone() }, "operation {operation}");
        assert!(result.is_err() || step == 2, "operation {operation}");
        // The next job goes on from there and clears up.
        save(&job(dir, 3, 3.0, Some(1))).unwrap();
        assert_eq!(found(dir).0, 3);
        assert_eq!(leftovers(dir), [""; 0], "operation {operation}");
        assert_eq!(latest(dir).unwrap().warning, None);
    });
}

#[test]
fn a_kill_while_the_only_checkpoint_is_replaced_leaves_the_old_or_the_new_one() {
    let (old, new) = (digest_of(5, 1.0), digest_of(5, 2.0));
    let prepare = |dir: &Path| drop(save(&job(dir, 5, 1.0, None)).unwrap());
    at_every_operation(
        prepare,
        Plan::Kill,
        |dir| job(dir, 5, 2.0, None),
        |dir, operation, result| {
            let (step, _, digest) = found(dir);
            assert!(
                step == 5 && (digest == new || (digest == old && result.is_err())),
                "operation {operation}"
            );
            save(&job(dir, 6, 3.0, None)).unwrap();
            assert_eq!(leftovers(dir), [""; 0], "operation {operation}");
            assert!(verify(&dir.join(step_name(5))).unwrap().is_ok());
        },
    );
}

#[test]
fn a_disk_error_at_any_operation_is_reported_and_harms_nothing() {
    const ENOSPC: i32 = 28;
    let one = digest_of(1, 1.0);
    let prepare = |dir: &Path| drop(save(&job(dir, 1, 1.0, None)).unwrap());
    let plan = |operation| Plan::Fail(operation, ENOSPC);
    at_every_operation(
        prepare,
        plan,
        |dir| job(dir, 2, 2.0, Some(1)),
        |dir, operation, result| {
            let message = match result {
                Err(e) => e.to_string(),
                Ok(saved) => saved.warning.clone().unwrap_or_default(),
            };
            if message.is_empty() {
                assert_eq!(found(dir).0, 2, "operation {operation}");
                return;
            }
            let here = dir.parent().unwrap().display().to_string();
            assert!(message.contains(&here) && message.contains("os error 28"), "{operation}: {message}");
            assert!(message.contains("hint: free space"), "{operation}: {message}");
            if result.is_err() {
                assert_eq!(leftovers(dir), [""; 0], "operation {operation}");
                assert_eq!(digest(&dir.join(step_name(1))).unwrap(), one, "operation {operation}");
            }
        },
    );
}

#[test]
fn a_read_only_folder_is_named() {
    const EROFS: i32 = 30;
    let parent = tempfile::tempdir().unwrap();
    let error = save_on(Trap::disk(Plan::Fail(0, EROFS)), &job(parent.path(), 1, 1.0, None)).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    let message = error.to_string();
    assert!(message.starts_with(&format!("cannot create folder {}: ", parent.path().display())), "{message}");
    assert!(message.ends_with("hint: choose a folder that this user may write"), "{message}");
}
