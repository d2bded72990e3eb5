//! Evaluation and generation on a mesh say what one rank says.

mod support {
    pub(crate) mod run;
}

use serde_json::Value;
use support::run::{Run, tisserand};

/// The losses of every validation set on so many ranks.
fn losses(run: &Run, ranks: &str, sets: &[&str]) -> Vec<f64> {
    let mut arguments = vec!["eval".to_owned()];
    arguments.extend(run.run_file());
    arguments.extend(["--checkpoint".to_owned(), run.dir_name(), "--json".to_owned()]);
    arguments.extend(["--ranks".to_owned(), ranks.to_owned()]);
    for set in sets {
        arguments.extend(["--set".to_owned(), (*set).to_owned()]);
    }
    let text = tisserand(arguments.iter().map(String::as_str));
    let record = |line: &str| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64().unwrap();
    text.lines().map(record).collect()
}

#[test]
fn evaluation_on_a_mesh_is_that_of_one_rank() {
    let run = Run::new(&["training.steps=4"]);
    run.exits(0);
    let one = losses(&run, "1", &[]);
    assert_eq!(one.len(), 1);
    // Data-parallel ranks add the sums of micro-batches in the order of one rank.
    for (ranks, sets) in
        [("2", vec![]), ("2", vec!["mesh.zero=1"]), ("2", vec!["mesh.dp_shard=1", "mesh.dp_replicate=2"])]
    {
        assert_eq!(losses(&run, ranks, &sets), one, "{ranks} ranks, {sets:?}");
    }
    for (ranks, sets) in [("2", vec!["mesh.tp=2"]), ("4", vec!["mesh.tp=2", "mesh.zero=3"])] {
        let got = losses(&run, ranks, &sets);
        assert!((got[0] / one[0] - 1.0).abs() < 1e-6, "{ranks} ranks, {sets:?}: {got:?} and {one:?}");
    }
}

#[test]
fn generation_on_ranks_writes_the_text_of_one() {
    let run = Run::new(&["training.steps=10"]);
    run.exits(0);
    let dir = run.dir_name();
    let generate = |more: &[&str]| {
        let fixed = ["generate", "--checkpoint", &dir, "--prompt", "the weaver ", "--max-tokens", "24"];
        tisserand(fixed.into_iter().chain(["--temperature", "0"]).chain(more.iter().copied()))
    };
    let one = generate(&[]);
    assert!(one.starts_with("the weaver ") && one.len() > 20, "{one}");
    // Every layer cut in two, keys copied; every unit gathered from two; both.
    for more in [&["--ranks", "2"][..], &["--ranks", "2", "--tp", "1"], &["--ranks", "4"]] {
        assert_eq!(generate(more), one, "{more:?}");
    }
}
