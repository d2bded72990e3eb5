//! Traces of whole runs: every action of the step, every collective and every wait, in a file per rank.

mod support {
    pub(crate) mod run;
}

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;
use support::run::{Run, errors};
use tisserand_collectives::Mesh;
use tisserand_runtime::config::Config;
use tisserand_runtime::model::Transformer;
use tisserand_runtime::parallel::Sharding;
use tisserand_runtime::step::schedule::train_step;

/// Trains on `ranks` ranks of this machine.
fn train(run: &Run, ranks: usize) {
    let output = run.command().args(["--ranks", &ranks.to_string()]).output().unwrap();
    assert!(output.status.success(), "{}", errors(&output));
}

/// Complete events of a rank's file, and the names of its threads.
fn trace(path: &Path, rank: u64) -> (Vec<Value>, BTreeMap<u64, String>) {
    let events: Vec<Value> = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert!(events.iter().all(|event| event["pid"] == rank));
    let (complete, names): (Vec<Value>, Vec<Value>) =
        events.into_iter().partition(|event| event["ph"] == "X");
    let threads = names.iter().filter(|name| name["name"] == "thread_name");
    let threads = threads.map(|name| {
        let text = name["args"]["name"].as_str().unwrap().to_owned();
        (name["tid"].as_u64().unwrap(), text)
    });
    (complete, threads.collect())
}

fn of_category<'a>(events: &'a [Value], category: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["cat"] == category).collect()
}

fn text<'a>(event: &'a Value, field: &str) -> &'a str {
    event[field].as_str().unwrap()
}

/// From begin to end in nanoseconds.
fn span(event: &Value) -> [i64; 2] {
    let ns = |field: &str| (event[field].as_f64().unwrap() * 1e3).round() as i64;
    [ns("ts"), ns("ts") + ns("dur")]
}

#[test]
fn two_ranks_trace_what_the_step_lists() {
    let sets = ["mesh.zero=3", "training.micro_batch=1", "log.trace_steps=3..4", "eval.every_steps=3"];
    let run = Run::new(&sets);
    train(&run, 2);
    let text_of = fs::read_to_string(run.dir().join("resolved.toml")).unwrap();
    let config = Config::parse(&text_of, "resolved.toml", &[], None, &|_| None).unwrap();
    let model = Transformer::new(config.model.clone());
    for rank in 0..2 {
        let path = run.dir().join(format!("traces/step-3..4/rank-{rank}.json"));
        let (events, threads) = trace(&path, rank);
        let sharding =
            Sharding { mesh: Mesh::new(1, 2, 1), rank: rank as usize, zero: 3, mesh_invariant: false };
        let one_step: Vec<String> = train_step(&model, &sharding, config.grad_accum())
            .iter()
            .map(|action| match action.unit() {
                Some(unit) => format!("{} {}", action.name(), model.units[unit].name),
                None => action.name().to_owned(),
            })
            .collect();
        let actions = of_category(&events, "action");
        let names: Vec<&str> = actions.iter().map(|action| text(action, "name")).collect();
        assert_eq!(names, [one_step.clone(), one_step].concat());
        let first_forward = actions.iter().find(|action| text(action, "name") == "forward block 0").unwrap();
        assert_eq!((&first_forward["args"]["micro_batch"], &first_forward["tid"]), (&0.into(), &0.into()));

        let steps = of_category(&events, "step");
        assert_eq!(steps.iter().map(|step| text(step, "name")).collect::<Vec<_>>(), ["step 3", "step 4"]);
        for action in &actions {
            let [begin, end] = span(action);
            assert!(steps.iter().any(|step| span(step)[0] <= begin && end <= span(step)[1]), "{action}");
        }

        let collectives = of_category(&events, "collective");
        let waits = of_category(&events, "wait");
        assert_eq!(collectives.len(), waits.len(), "every collective is waited for");
        let gathers = collectives.iter().filter(|event| text(event, "name") == "all_gather block 1");
        let gathers: Vec<_> = gathers.collect();
        // Matrices and vectors, for the forward and the backward pass of two micro-batches of two steps.
        assert_eq!(gathers.len(), 2 * 2 * 2 * 2);
        assert_eq!(gathers[0]["args"]["axis"], "dp_shard");
        let group = &model.units[2].groups[0];
        assert_eq!(gathers[0]["args"]["payload_bytes"], 4 * group.padded_len(2));
        for event in &collectives {
            let thread = &threads[&event["tid"].as_u64().unwrap()];
            let kind = text(event, "name").split(' ').next().unwrap();
            assert!(thread.starts_with("dp_shard: ") && thread.contains(kind), "{thread}: {event}");
            let same = |wait: &&&Value| {
                let name = text(wait, "name").strip_prefix("wait for ");
                name == Some(text(event, "name"))
                    && wait["args"]["sequence"] == event["args"]["sequence"]
                    && span(wait)[1] >= span(event)[1]
            };
            assert!(waits.iter().any(|wait| same(&wait)), "nobody waits for {event}");
        }
        // Events of a thread follow each other.
        for thread in threads.keys().filter(|thread| **thread > 0) {
            let mut spans: Vec<_> = events.iter().filter(|event| event["tid"] == *thread).map(span).collect();
            spans.sort_unstable();
            assert!(spans.windows(2).all(|pair| pair[0][1] <= pair[1][0]), "thread {thread}: {spans:?}");
        }
    }
    let left: Vec<_> = fs::read_dir(run.dir().join("traces/step-3..4")).unwrap().collect();
    assert_eq!(left.len(), 2, "nothing but the files: {left:?}");

    for step in run.records("step") {
        let share = step["exposed_communication"].as_f64().unwrap();
        assert!(share > 0.0 && share < 1.0, "{step}");
    }
}

#[test]
fn one_rank_traces_its_actions_until_the_run_ends() {
    let run = Run::new(&["log.trace_steps=9..20"]);
    train(&run, 1);
    let (events, threads) = trace(&run.dir().join("traces/step-9..20/rank-0.json"), 0);
    assert_eq!(of_category(&events, "step").len(), 2);
    assert!(of_category(&events, "action").iter().any(|event| event["name"] == "update block 1"));
    assert!(of_category(&events, "wait").is_empty() && threads.len() == 2);
    assert!(run.records("step").iter().all(|step| step["exposed_communication"].is_null()));
    let line = fs::read_dir(run.dir().join("jobs")).unwrap().next().unwrap().unwrap().path();
    let log = fs::read_to_string(line.join("rank0.log")).unwrap();
    assert!(log.contains("traces/step-9..20/rank-0.json: open it in") && !log.contains("exposed"), "{log}");
}
