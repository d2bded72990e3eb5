//! Which checkpoint is found, and which ones stay.

use std::fs;
use std::path::Path;

use tisserand_runtime::checkpoint::*;

use crate::{job, options};

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn found(dir: &Path) -> (Option<u64>, String) {
    let Latest { checkpoint, warning, .. } = latest(dir).unwrap();
    (checkpoint.map(|(step, _)| step), warning.unwrap_or_default())
}

#[test]
fn latest_is_obeyed_and_what_is_missing_is_told() {
    let run = tempfile::tempdir().unwrap();
    let dir = run.path().join("checkpoints");
    for step in [1, 2, 3] {
        save(&job(&dir, step, step)).unwrap();
    }
    assert_eq!(found(&dir), (Some(3), String::new()));
    fs::write(dir.join("latest"), "step-00000002\n").unwrap();
    let (step, warning) = found(&dir);
    assert!(step == Some(2) && warning.ends_with("step-00000003 is complete"), "{warning}");
    for text in ["step-00000009\n", "../../etc\n", ""] {
        fs::write(dir.join("latest"), text).unwrap();
        let (step, warning) = found(&dir);
        assert!(step == Some(3) && warning.contains("latest"), "{warning}");
    }
    fs::remove_file(dir.join("latest")).unwrap();
    let (step, warning) = found(&dir);
    assert!(step == Some(3) && warning.contains("the newest complete checkpoint is"), "{warning}");
    assert!(!warning.contains('\n'));

    fs::remove_file(dir.join("step-00000003/trainer.json")).unwrap();
    fs::write(dir.join("latest"), "step-00000003\n").unwrap();
    let (step, warning) = found(&dir);
    assert!(step == Some(2) && warning.contains("step-00000003/trainer.json"), "{warning}");
    for step in [1, 2] {
        fs::remove_file(dir.join(step_name(step)).join("manifest.json")).unwrap();
    }
    let (step, warning) = found(&dir);
    assert!(step.is_none() && warning.ends_with("no complete checkpoint is left"), "{warning}");
    let error = resolve(run.path()).unwrap_err().to_string();
    assert!(error.contains("holds no complete checkpoint (") && error.contains("; hint: "), "{error}");
}

#[test]
fn a_run_its_checkpoints_a_step_and_a_hugging_face_folder_are_understood() {
    let run = tempfile::tempdir().unwrap();
    let dir = run.path().join("checkpoints");
    let step = save(&job(&dir, 1, 1)).unwrap().dir;
    for path in [run.path(), &dir, &step] {
        assert_eq!(resolve(path).unwrap().source, Source::Checkpoint(step.clone()), "{path:?}");
    }
    let weights = step.join("weights");
    assert_eq!(resolve(&weights).unwrap().source, Source::HfFolder(weights));
    let tmp = dir.join("step-00000002.tmp");
    fs::rename(&step, &tmp).unwrap();
    assert!(resolve(&tmp).unwrap_err().to_string().contains("an unfinished save"));
    assert!(resolve(&run.path().join("absent")).unwrap_err().to_string().contains("cannot read"));
    assert!(resolve(&tmp.join("trainer.json")).unwrap_err().to_string().contains("is not a folder"));
}

#[test]
fn what_a_crash_left_is_cleared_by_the_next_save() {
    let run = tempfile::tempdir().unwrap();
    save(&job(run.path(), 1, 1)).unwrap();
    for left in ["step-00000001.tmp", "step-00000002.tmp", "step-00000001.old", "step-00000007.old.tmp"] {
        fs::create_dir_all(run.path().join(left).join("weights")).unwrap();
    }
    fs::write(run.path().join("latest.tmp"), "").unwrap();
    fs::create_dir(run.path().join("notes.tmp")).unwrap();
    assert_eq!(found(run.path()), (Some(1), String::new()));
    save(&job(run.path(), 2, 1)).unwrap();
    assert_eq!(names(run.path()), ["latest", "notes.tmp", "step-00000001", "step-00000002"]);
    let before = digest(run.path()).unwrap();
    save(&job(run.path(), 2, 9)).unwrap();
    assert_ne!(digest(run.path()).unwrap(), before);
    assert_eq!(names(run.path()), ["latest", "notes.tmp", "step-00000001", "step-00000002"]);
}

#[test]
fn retention_keeps_the_newest_the_named_and_the_milestones() {
    let run = tempfile::tempdir().unwrap();
    let retention = Retention { keep_last: 2, keep_every_steps: Some(10), keep_every_tokens: None };
    let mut pruned = Vec::new();
    for step in [3, 7, 12, 15, 19, 24] {
        let job = SaveJob { retention: Some(retention), ..job(run.path(), step, step) };
        pruned.extend(save(&job).unwrap().pruned);
    }
    assert_eq!(pruned, [3, 7, 15]);
    assert_eq!(names(run.path()), ["latest", "step-00000012", "step-00000019", "step-00000024"]);
    fs::write(run.path().join("latest"), "step-00000012\n").unwrap();
    fs::create_dir(run.path().join("step-00000005")).unwrap();
    assert_eq!(prune(run.path(), &Retention::default()).unwrap(), [19]);
    assert_eq!(names(run.path()), ["latest", "step-00000005", "step-00000012", "step-00000024"]);
}

#[test]
fn inspect_counts_what_is_there() {
    let run = tempfile::tempdir().unwrap();
    let job = SaveJob { options: options(u64::MAX, 1, 1), ..job(run.path(), 4, 1) };
    save(&job).unwrap();
    let summary = inspect(run.path()).unwrap();
    assert_eq!((summary.num_parameters, summary.tensors.len(), summary.files.len()), (76, 16, 2));
    assert_eq!(summary.size_bytes[&Part::Weights], 152);
    assert_eq!(summary.size_bytes[&Part::Optimizer], 912);
    assert_eq!(summary.trainer.as_ref().unwrap().consumed_tokens, 4000);
    let text = summary.to_string();
    assert!(text.contains("step 4, 4000 tokens") && text.contains("76 parameters in BF16"), "{text}");
    let json = serde_json::to_value(&summary).unwrap();
    assert_eq!(json["size_bytes"]["weights"], 152);
}
