//! `tisserand plan` as scripts use it.

use std::process::Command;

use serde_json::Value;

fn plan(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_tisserand"))
        .arg("plan")
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_plan_for_scripts_is_one_json_object_with_everything() {
    let with_profile = ["examples/llama3-8b.toml", "--nodes", "256", "--profile", "jeanzay-h100", "--json"];
    let plan: Value = serde_json::from_str(&plan(&with_profile)).unwrap();
    assert_eq!(plan["ranks"], 1024);
    assert_eq!(plan["arena_peak_at"]["action"], "backward");
    let classes = plan["arena_bytes_by_class"].as_object().unwrap();
    let used: u64 = classes.values().map(|bytes| bytes.as_u64().unwrap()).sum();
    assert_eq!(used + plan["arena_gaps_bytes"].as_u64().unwrap(), plan["arena_bytes"].as_u64().unwrap());
    let axes: Vec<&Value> = plan["collectives"].as_array().unwrap().iter().map(|row| &row["axis"]).collect();
    assert!(axes.contains(&&Value::from("dp_shard")) && axes.contains(&&Value::from("dp_replicate")));
    let prediction = &plan["prediction"];
    let seconds = |key: &str| prediction[key].as_f64().unwrap();
    let parts = seconds("compute_s") + seconds("memory_s") + seconds("launch_s") + seconds("network_s");
    assert!((parts / seconds("step_s") - 1.0).abs() < 1e-9, "{prediction}");
    assert_eq!(prediction["fits"], true);
}

#[test]
fn without_a_profile_no_time_is_predicted() {
    let text = plan(&["examples/quickstart.toml"]);
    assert!(text.contains("at its peak in: ") && !text.contains("predicted for"), "{text}");
    let object: Value = serde_json::from_str(&plan(&["examples/quickstart.toml", "--json"])).unwrap();
    assert_eq!(object["prediction"], Value::Null);
}

#[test]
fn a_search_prints_what_to_set() {
    let batch = ["--set", "training.global_batch=64"];
    let arguments = ["examples/llama3-8b.toml", "--ranks", "32", "--profile", "gh200", "--search"];
    let arguments = [&arguments[..], &batch].concat();
    let text = plan(&arguments);
    assert!(text.contains("the first: --set 'mesh.dp_replicate="), "{text}");
    let found: Value = serde_json::from_str(&plan(&[&arguments[..], &["--json"]].concat())).unwrap();
    let best = found["best"].as_array().unwrap();
    assert!(!best.is_empty() && best[0]["sets"].as_array().unwrap().len() == 7);
}
