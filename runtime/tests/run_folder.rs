//! The run folder as several processes see it: permissions, the lock, what is left behind.
//!
//! Tests that need another process start this test binary again on `the_other_process`, which does what
//! its environment says; umask and `kill -9` then concern that process alone.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tisserand_runtime::log::TensorBoard;
use tisserand_runtime::log::metrics::MetricsLog;
use tisserand_runtime::log::record::{Record, ResumeRecord};
use tisserand_runtime::run::{
    Difference, HostRow, JobFacts, LineageEntry, ProcessDescription, RunFolder, Start, State, Status,
    StatusFile,
};

const ROLE: &str = "RUN_FOLDER_TEST_ROLE";
const DIR: &str = "RUN_FOLDER_TEST_DIR";
const GROUP: &str = "RUN_FOLDER_TEST_GROUP";

fn other_process(role: &str, dir: &Path, umask: &str, group: &str) -> Child {
    let this = std::env::current_exe().unwrap();
    Command::new("sh")
        .args(["-c", r#"umask "$1"; exec "$2" --exact the_other_process --nocapture"#, "sh", umask])
        .arg(this)
        .env(ROLE, role)
        .env(DIR, dir)
        .env(GROUP, group)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Does nothing unless started by [`other_process`].
#[test]
fn the_other_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let dir = std::env::var_os(DIR).unwrap();
    let group = std::env::var(GROUP).unwrap();
    let folder = RunFolder::open(Path::new(&dir), Some(&group)).unwrap();
    match role.as_str() {
        "fill" => fill(&folder),
        "hold" => match folder.lock("other", |_| {}) {
            Ok(_lock) => {
                println!("\nverdict: won");
                // Until the parent lets go or kills.
                std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
            }
            Err(error) => println!("\nverdict: {error}"),
        },
        _ => panic!("no role {role}"),
    }
}

fn job(id: &str) -> JobFacts {
    JobFacts { id: id.to_owned(), ..JobFacts::default() }
}

/// Writes one of everything.
fn fill(folder: &RunFolder) {
    folder.write_run_toml("config_version = 1\n").unwrap();
    folder.write_resolved_toml("config_version = 1\n").unwrap();
    folder.begin_start(&Start::default(), LineageEntry::now(&job("1"), None, Vec::new())).unwrap();
    folder.status().write(&Status::starting(10)).unwrap();
    let job = folder.next_job("1", &ProcessDescription::default()).unwrap();
    let (host, device) = ("node1".to_owned(), "CPU, 2 threads".to_owned());
    let (cpus, numa) = ("0-3".to_owned(), "0".to_owned());
    let (node, gpu) = (None, None);
    let row = HostRow { rank: 0, local_rank: 0, host, node, pid: 1, device, gpu, cpus, bound: false, numa };
    job.write_hosts(&[row]).unwrap();
    let mut metrics = MetricsLog::open(&folder.metrics(), folder.access(), 0).unwrap();
    let (job_id, world_size) = ("1".to_owned(), 1);
    metrics.append(&Record::Resume(ResumeRecord { step: 0, tokens: 0, job_id, world_size })).unwrap();
    TensorBoard::create(&folder.tensorboard(), folder.access(), 0).unwrap();
    // Stays, as a crash would leave it.
    std::mem::forget(folder.lock("1", |_| {}).unwrap());
}

/// The first line that the other process says about its lock.
fn verdict(child: &mut Child) -> String {
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    lines.map(Result::unwrap).find_map(|line| line.strip_prefix("verdict: ").map(str::to_owned)).unwrap()
}

/// Mode bits and group of everything under `dir`, by path.
fn modes(dir: &Path) -> BTreeMap<String, (u32, u32)> {
    let mut modes = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(path) = open.pop() {
        let metadata = fs::metadata(&path).unwrap();
        modes.insert(path.display().to_string(), (metadata.permissions().mode() & 0o7777, metadata.gid()));
        if metadata.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    modes
}

/// A group that this process may give files to, and one that is not the group of its files if possible.
fn own_group() -> (String, u32) {
    let root_may_choose_any = nix::unistd::getuid().is_root();
    let name = if root_may_choose_any { nix::unistd::Group::from_name("daemon").unwrap() } else { None };
    let group = name.or_else(|| nix::unistd::Group::from_gid(nix::unistd::getgid()).unwrap());
    let group = group.expect("the group of this process has a name");
    (group.name, group.gid.as_raw())
}

#[test]
fn permissions_follow_the_umask() {
    for (umask, folder_mode, file_mode) in
        [("022", 0o755, 0o644), ("027", 0o750, 0o640), ("002", 0o775, 0o664)]
    {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("runs/a");
        assert!(other_process("fill", &dir, umask, "").wait().unwrap().success());
        let modes = modes(&root.path().join("runs"));
        assert!(modes.len() >= 15, "{modes:#?}");
        for (path, (mode, _)) in modes {
            let expected = if Path::new(&path).is_dir() { folder_mode } else { file_mode };
            assert_eq!(mode, expected, "{path} is {mode:o} under umask {umask}");
        }
    }
}

#[test]
fn a_group_may_read_everything_whatever_the_umask() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("runs/a");
    let (name, gid) = own_group();
    assert!(other_process("fill", &dir, "077", &name).wait().unwrap().success());
    for (path, (mode, group)) in modes(&root.path().join("runs")) {
        let expected = if Path::new(&path).is_dir() { 0o2750 } else { 0o640 };
        assert_eq!((mode, group), (expected, gid), "{path} is {mode:o}");
    }
}

#[test]
fn an_unknown_group_creates_nothing() {
    let root = tempfile::tempdir().unwrap();
    let error = RunFolder::open(&root.path().join("a"), Some("no-such-group")).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("run.group = \"no-such-group\""), "{error}");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn impossible_folders_are_refused_in_one_line() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    let dangling = root.path().join("dangling");
    std::os::unix::fs::symlink(root.path().join("nowhere"), &dangling).unwrap();
    for (dir, named) in [(file.clone(), &file), (file.join("below"), &file), (dangling.clone(), &dangling)] {
        let error = RunFolder::open(&dir, None).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.exit_code(), 2, "{text}");
        assert!(text.starts_with("cannot create folder") && text.contains("hint: "), "{text}");
        assert!(text.contains(&format!("{}: ", named.display())) && !text.contains('\n'), "{text}");
    }
    assert_eq!(RunFolder::open(Path::new(""), None).unwrap_err().exit_code(), 2);
}

#[test]
fn fresh_wants_an_empty_folder() {
    let root = tempfile::tempdir().unwrap();
    RunFolder::require_empty(&root.path().join("missing")).unwrap();
    RunFolder::require_empty(root.path()).unwrap();
    RunFolder::open(root.path(), None).unwrap();
    let error = RunFolder::require_empty(root.path()).unwrap_err().to_string();
    assert!(error.contains("is not empty; hint: "), "{error}");
}

#[test]
fn a_second_job_is_refused_with_the_holders_name_until_it_is_killed() {
    let root = tempfile::tempdir().unwrap();
    let mut holder = other_process("hold", root.path(), "022", "");
    assert_eq!(verdict(&mut holder), "won");
    let folder = RunFolder::open(root.path(), None).unwrap();
    let error = folder.lock("mine", |_| {}).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    // `sh` replaced itself by the test binary, so the child's id is the holder's.
    let name = format!("is in use by job other (pid {} on ", holder.id());
    assert!(error.to_string().contains(&name), "{error}");

    holder.kill().unwrap();
    holder.wait().unwrap();
    let mut notices = Vec::new();
    let lock = folder.lock("mine", |line| notices.push(line.to_owned())).unwrap();
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert!(notices[0].contains("over from job other (pid ") && notices[0].contains("no longer alive"));
    lock.check().unwrap();
}

#[test]
fn a_holder_that_ends_well_leaves_no_lock() {
    let root = tempfile::tempdir().unwrap();
    let mut holder = other_process("hold", root.path(), "022", "");
    assert_eq!(verdict(&mut holder), "won");
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    let notify = |line: &str| panic!("{line}");
    RunFolder::open(root.path(), None).unwrap().lock("mine", notify).unwrap();
}

#[test]
fn of_several_processes_one_takes_an_abandoned_folder_over() {
    for _ in 0..3 {
        let root = tempfile::tempdir().unwrap();
        assert!(other_process("fill", root.path(), "022", "").wait().unwrap().success());
        assert!(root.path().join("LOCK").exists());
        let mut starters: Vec<Child> =
            (0..4).map(|_| other_process("hold", root.path(), "022", "")).collect();
        let verdicts: Vec<String> = starters.iter_mut().map(verdict).collect();
        assert_eq!(verdicts.iter().filter(|v| *v == "won").count(), 1, "{verdicts:#?}");
        for mut starter in starters {
            drop(starter.stdin.take());
            starter.wait().unwrap();
        }
    }
}

#[test]
fn lineage_keeps_every_start_and_refuses_to_lose_a_damaged_one() {
    let root = tempfile::tempdir().unwrap();
    let folder = RunFolder::open(root.path(), None).unwrap();
    assert_eq!(folder.lineage().unwrap(), []);
    let difference = Difference { key: "mesh.tp".to_owned(), old: 1.into(), new: 2.into() };
    let starts = [
        LineageEntry::now(&job("1"), None, Vec::new()),
        LineageEntry::now(&job("2"), Some(500), vec![difference]),
    ];
    for start in &starts {
        folder.begin_start(&Start::default(), start.clone()).unwrap();
    }
    assert_eq!(folder.lineage().unwrap(), starts);
    let path = root.path().join("lineage.json");
    fs::write(&path, "[{").unwrap();
    let error = folder.begin_start(&Start::default(), starts[0].clone()).unwrap_err();
    assert!(error.to_string().contains("lineage.json is damaged"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "[{");
}

#[test]
fn files_of_the_folder_are_where_the_design_puts_them() {
    let root = tempfile::tempdir().unwrap();
    let folder = RunFolder::open(root.path(), None).unwrap();
    assert_eq!(folder.read_resolved_toml().unwrap(), None);
    fill(&folder);
    assert_eq!(folder.read_resolved_toml().unwrap().as_deref(), Some("config_version = 1\n"));
    let mut names: Vec<String> =
        fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let expected = "LOCK checkpoints jobs lineage.json metrics.jsonl resolved.toml run.toml status.json tb";
    assert_eq!(names.join(" "), expected);
    let mut names: Vec<String> = fs::read_dir(root.path().join("jobs/0001-1"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["environment.json", "hosts.json", "rank0.log"]);
    let (status, _) = StatusFile::read(&root.path().join("status.json")).unwrap();
    assert_eq!(status.state, State::Starting);
}
