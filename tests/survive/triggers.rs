//! `touch RUN/save` and `touch RUN/stop`.

use std::fs;

use crate::run::errors;
use crate::{endless, log, stops};

#[test]
fn a_file_asks_for_a_checkpoint_and_another_for_the_end() {
    for ranks in [1, 2] {
        let mut run = endless(&["mesh.zero=1"]);
        run.set_ranks(ranks);
        let mut child = run.spawn();
        run.wait_until(&mut child, "step 1", |run| run.status_step().is_some_and(|step| step >= 1));
        let (save, stop) = (run.dir().join("save"), run.dir().join("stop"));
        fs::write(&save, "").unwrap();
        run.wait_until(&mut child, "the checkpoint", |run| run.dir().join("checkpoints/latest").exists());
        assert!(!save.exists());
        let step = run.status_step().unwrap();
        run.wait_until(&mut child, "more steps", |run| run.status_step().is_some_and(|now| now > step));
        fs::write(&stop, "").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(75), "{}", errors(&output));
        assert!(output.stderr.is_empty(), "{}", errors(&output));
        assert!(!stop.exists());
        let status = run.status();
        assert_eq!((&status["state"], &status["exit_code"]), (&"stopped".into(), &75.into()));
        assert!(status["message"].as_str().unwrap().contains("the file stop"), "{status}");
        assert_eq!(run.records("checkpoint").len(), 2);
        // The next start is not stopped by it.
        stops(&run, run.spawn());
        assert_eq!(run.records("resume").len(), 1);
    }
}

#[test]
fn files_from_before_the_start_have_no_effect() {
    let run = crate::run::Run::new(&[]);
    fs::create_dir_all(run.dir()).unwrap();
    for name in ["save", "stop"] {
        fs::write(run.dir().join(name), "").unwrap();
    }
    let said = run.exits(0);
    assert_eq!(said.matches("was there before this start: removed without effect").count(), 2, "{said}");
    assert!(!run.dir().join("save").exists() && !run.dir().join("stop").exists());
    assert_eq!(run.records("checkpoint").len(), 1);
}

#[test]
fn a_file_that_cannot_be_removed_is_no_loop_of_saves() {
    let run = endless(&[]);
    let mut child = run.spawn();
    run.wait_until(&mut child, "step 1", |run| run.status_step().is_some_and(|step| step >= 1));
    fs::create_dir(run.dir().join("save")).unwrap();
    run.wait_until(&mut child, "the checkpoint", |run| run.records("checkpoint").len() == 1);
    // Long enough for two looks more.
    std::thread::sleep(std::time::Duration::from_secs(9));
    let said = errors(&stops(&run, child));
    assert_eq!(said.matches("cannot remove").count(), 1, "{said}");
    assert_eq!(run.records("checkpoint").len(), 2, "{}", log(&run));
}
