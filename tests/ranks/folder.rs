//! What a run of several ranks leaves behind and says: as much as one of one rank, and by rank 0.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::run::{Run, errors};
use crate::support::mesh;

/// Files below `dir` but for checkpoints, relative to it.
fn names(dir: &Path, below: &str, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir.join(below)).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            names(dir, &format!("{name}/"), found);
        } else if !name.starts_with("tb/") {
            found.insert(name);
        }
    }
}

fn all_names(run: &Run) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    names(&run.dir(), "", &mut found);
    found
}

#[test]
fn rank_0_speaks_for_all() {
    let sets = ["log.tensorboard=true", "checkpoint.every_steps=4", "training.micro_batch=1"];
    let one = Run::new(&sets);
    let said = |run: &Run| {
        let output = run.loud_command().output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{}", errors(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let alone = said(&one);
    let four = one.on(mesh(2, 2, 3));
    let together = said(&four);
    // The same lines, up to what is measured.
    let first_words = |text: &str| -> Vec<String> {
        let mut words: Vec<_> =
            text.lines().map(|line| line.split([' ', '/']).next().unwrap().to_owned()).collect();
        // A checkpoint is told of when it is written, between any two lines.
        words.sort();
        words
    };
    assert_eq!(first_words(&together), first_words(&alone), "{together}\n{alone}");
    let mesh_line = together.lines().find(|line| line.contains("parameters")).unwrap();
    assert!(mesh_line.contains("4 ranks (dp_replicate 2, dp_shard 2, ZeRO 3)"), "{mesh_line}");
    assert_eq!(all_names(&four), all_names(&one));
    let tensorboard = |run: &Run| fs::read_dir(run.dir().join("tb")).unwrap().count();
    assert_eq!(tensorboard(&four), tensorboard(&one));

    let job = four.dir().join("jobs/0001-local");
    let log = fs::read_to_string(job.join("rank0.log")).unwrap();
    assert!(log.contains(mesh_line), "{log}");
    let hosts: Value = serde_json::from_slice(&fs::read(job.join("hosts.json")).unwrap()).unwrap();
    let ranks: Vec<_> = hosts.as_array().unwrap().iter().map(|row| row["rank"].as_u64().unwrap()).collect();
    assert_eq!(ranks, [0, 1, 2, 3], "{hosts}");
    for row in hosts.as_array().unwrap() {
        assert_eq!(row["local_rank"], row["rank"], "{hosts}");
        assert!(row["host"].is_string() && row["device"].is_string(), "{hosts}");
    }
}

#[test]
fn a_checkpoint_of_several_ranks_is_one_checkpoint() {
    let run = Run::new(&["training.global_batch=8", "training.micro_batch=1", "training.steps=4"]);
    for mesh in [mesh(1, 4, 3), mesh(4, 2, 1), mesh(2, 1, 0)] {
        let run = run.on(mesh);
        run.exits(0);
        run.verify();
        let manifest = fs::read(run.checkpoint(4).join("manifest.json")).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        assert_eq!(manifest["mesh"]["dp_replicate"], mesh.replicate);
        assert_eq!(manifest["mesh"]["dp_shard"], mesh.shard);
        // What one rank of them wrote wrongly would show.
        let file = run.checkpoint(4).join("weights/model.safetensors");
        let mut bytes = fs::read(&file).unwrap();
        let last = bytes.len() - 2;
        bytes[last] ^= 1;
        fs::write(&file, bytes).unwrap();
        let verify = ["checkpoint", "verify", &run.dir_name()];
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_tisserand")).args(verify).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", errors(&output));
    }
}
