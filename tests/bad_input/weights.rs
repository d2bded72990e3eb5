//! Where weights come from: `[init]`, `model.hf_config`, and the run's own folder.

use std::fs;
use std::path::PathBuf;

use crate::support::{Case, Sandbox, TRAIN, check, contents, faults, lost};

fn case(name: &'static str, prepare: fn(&Sandbox), expected: &'static [&'static str]) -> Case {
    Case { name, prepare, args: TRAIN, expected }
}

fn init(sandbox: &Sandbox, from: &str) {
    sandbox.replace("run.toml", "[checkpoint]", &format!("[init]\nfrom = \"{from}\"\n[checkpoint]"));
}

/// The newest checkpoint of the shared run, as `start` here, with weights to begin from.
fn own_checkpoint(sandbox: &Sandbox) {
    sandbox.copy("run");
    fs::rename(sandbox.path(NEWEST), sandbox.path("start")).unwrap();
    fs::remove_dir_all(sandbox.path("run")).unwrap();
    init(sandbox, "start");
}

/// The second and last checkpoint of the shared run.
const NEWEST: &str = "run/checkpoints/step-00000002";

/// The only file with this ending below a folder of the sandbox.
fn find(sandbox: &Sandbox, dir: &str, ending: &str) -> String {
    let found: Vec<PathBuf> = contents(&sandbox.path(dir))
        .into_keys()
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect();
    assert_eq!(found.len(), 1, "{dir}: {ending}: {found:?}");
    found[0].strip_prefix(sandbox.path("")).unwrap().display().to_string()
}

fn edit_weights(sandbox: &Sandbox, change: impl FnOnce(&mut Vec<u8>)) {
    own_checkpoint(sandbox);
    let file = find(sandbox, "start", "weights/model.safetensors");
    sandbox.edit(&file, change);
}

#[test]
fn weights_to_begin_from() {
    check(&[
        case("missing", |s| init(s, "none"), &["none"]),
        case("a file", |s| init(s, "{w}/text.txt"), &["text.txt"]),
        case(
            "a folder without weights",
            |s| {
                s.write("start/readme.txt", "x");
                init(s, "start");
            },
            &["start"],
        ),
        case(
            "other shapes",
            |s| {
                own_checkpoint(s);
                s.replace("run.toml", "hidden_size = 16", "hidden_size = 32");
            },
            &["start", "model.", "shape", "16", "32"],
        ),
        case(
            "fewer layers",
            |s| {
                own_checkpoint(s);
                s.replace("run.toml", "num_layers = 1", "num_layers = 2");
            },
            &["start", "model.layers.1."],
        ),
        case(
            "cut short",
            |s| edit_weights(s, |bytes| bytes.truncate(bytes.len() - 100)),
            &["model.safetensors"],
        ),
        case("empty", |s| edit_weights(s, Vec::clear), &["model.safetensors"]),
        case(
            "a header of random bytes",
            |s| edit_weights(s, |bytes| bytes[8..60].fill(0xa5)),
            &["model.safetensors", "header"],
        ),
        case(
            "a header longer than the file",
            |s| edit_weights(s, |bytes| bytes[..8].fill(0x7f)),
            &["model.safetensors", "header"],
        ),
        case(
            "a damaged manifest",
            |s| {
                own_checkpoint(s);
                s.edit("start/manifest.json", |bytes| bytes[20] = 0);
            },
            &["manifest.json"],
        ),
        case(
            "a manifest cut short",
            |s| {
                own_checkpoint(s);
                s.edit("start/manifest.json", |bytes| bytes.truncate(bytes.len() / 2));
            },
            &["manifest.json"],
        ),
        case(
            "all of a Hugging Face folder",
            |s| {
                own_checkpoint(s);
                fs::rename(s.path("start"), s.path("whole")).unwrap();
                fs::rename(s.path("whole/weights"), s.path("start")).unwrap();
                s.replace("run.toml", "[init]", "[init]\nload = \"all\"");
            },
            &["init.load = \"all\"", "start", "hint: "],
        ),
    ]);
}

fn hf_config(sandbox: &Sandbox, text: &str) {
    sandbox.write("config.json", text);
    sandbox.replace("run.toml", "[model]\n", "[model]\nhf_config = \"config.json\"\n");
}

#[test]
fn hugging_face_configs() {
    const GOOD: &str = r#""model_type":"llama","vocab_size":320,"hidden_size":16,"intermediate_size":32,
        "num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":2"#;
    fn with(sandbox: &Sandbox, key: &str) {
        hf_config(sandbox, &format!("{{{GOOD},{key}}}"));
    }
    check(&[
        case(
            "missing",
            |s| s.replace("run.toml", "[model]\n", "[model]\nhf_config = \"none.json\"\n"),
            &["none.json", "no such file"],
        ),
        case("not JSON", |s| hf_config(s, "nope"), &["config.json"]),
        case(
            "an unknown family",
            |s| hf_config(s, r#"{"model_type":"bert"}"#),
            &["config.json", "model_type", "bert"],
        ),
        case(
            "an activation",
            |s| with(s, r#""hidden_act":"gelu""#),
            &["config.json", "hidden_act", "gelu", "silu"],
        ),
        case(
            "dropout",
            |s| with(s, r#""attention_dropout":0.1"#),
            &["config.json", "attention_dropout", "0.1"],
        ),
        case(
            "quantised",
            |s| with(s, r#""quantization_config":{"bits":4}"#),
            &["config.json", "quantization_config"],
        ),
        case(
            "yarn",
            |s| with(s, r#""rope_scaling":{"rope_type":"yarn","factor":4.0}"#),
            &["config.json", "rope", "yarn"],
        ),
        case(
            "with a preset",
            |s| {
                with(s, r#""mlp_bias":false"#);
                s.replace("run.toml", "[model]\n", "[model]\npreset = \"llama-3.2-1b\"\n");
            },
            &["model.preset", "model.hf_config"],
        ),
    ]);
}

const TRAIN_ON: &[&str] =
    &["train", "run.toml", "--quiet", "--set", "training.steps=3", "--allow-change", "training.steps"];

#[test]
fn runs_that_go_on() {
    let on = |name, prepare, args, expected| Case { name, prepare, args, expected };
    check(&[
        on(
            "another learning rate",
            |s| s.copy("run"),
            &["train", "run.toml", "--quiet", "--set", "optimizer.lr=0.5"],
            &["optimizer.lr from 0.001 to 0.5", "hint: ", "--allow-change optimizer.lr"],
        ),
        on(
            "another model",
            |s| s.copy("run"),
            &["train", "run.toml", "--quiet", "--set", "model.hidden_size=32"],
            &["model.hidden_size from 16 to 32", "hint: "],
        ),
        on(
            "a key that is none",
            |s| s.copy("run"),
            &["train", "run.toml", "--quiet", "--allow-change", "optimizer.speed"],
            &["--allow-change optimizer.speed", "hint: "],
        ),
        on(
            "--fresh in a used folder",
            |s| s.copy("run"),
            &["train", "run.toml", "--quiet", "--fresh"],
            &["--fresh", "run is not empty", "hint: "],
        ),
        on(
            "a damaged resolved.toml",
            |s| {
                s.copy("run");
                s.write("run/resolved.toml", "?");
            },
            TRAIN_ON,
            &["resolved.toml"],
        ),
        on(
            "no checkpoint that is whole",
            |s| {
                s.copy("run");
                damage_optimizer(s, "run/checkpoints");
            },
            TRAIN_ON,
            &["state-00001-of-00001.safetensors", "no complete checkpoint is left", "hint: "],
        ),
    ]);
}

#[test]
fn allowed_changes_go_on_from_the_newest_checkpoint() {
    let sandbox = Sandbox::new();
    sandbox.copy("run");
    let output = sandbox.run(TRAIN_ON);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(sandbox.path("run/checkpoints/step-00000003").is_dir());
}

/// Cuts all optimizer files below a folder in half.
fn damage_optimizer(sandbox: &Sandbox, dir: &str) {
    for (file, bytes) in contents(&sandbox.path(dir)) {
        if file.to_string_lossy().contains("/optimizer/") {
            fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        }
    }
}

#[test]
fn a_damaged_checkpoint_is_passed_over_with_a_warning() {
    let sandbox = Sandbox::new();
    sandbox.copy("run");
    damage_optimizer(&sandbox, NEWEST);
    for args in [&["checkpoint", "inspect", "run"][..], &["checkpoint", "digest", "run"], TRAIN_ON] {
        let output = sandbox.run(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        println!("{stderr}");
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        assert!(stderr.starts_with("warning: run/checkpoints/step-00000002/optimizer/"), "{stderr}");
        assert!(
            stderr.contains("the newest complete checkpoint is run/checkpoints/step-00000001"),
            "{stderr}"
        );
    }
}

/// What `checkpoint verify` says of a checkpoint that was damaged, on standard output.
fn verify(damage: fn(&Sandbox), expected: &[&str]) {
    let sandbox = Sandbox::new();
    sandbox.copy("run");
    damage(&sandbox);
    let before = contents(&sandbox.path(""));
    let output = sandbox.run(&["checkpoint", "verify", "run"]);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{stdout}{stderr}");
    assert_eq!(output.status.code(), Some(1), "{stdout}{stderr}");
    assert!(expected.iter().all(|part| stdout.contains(part)), "{expected:?}: {stdout}");
    assert_eq!(lost(&before, &contents(&sandbox.path(""))).count(), 0);
}

#[test]
fn verify_names_file_and_tensor_of_a_flipped_bit() {
    verify(
        |s| s.edit(&find(s, NEWEST, "weights/model.safetensors"), |bytes| *bytes.last_mut().unwrap() ^= 4),
        &["model.safetensors", "model."],
    );
}

#[test]
fn verify_names_a_missing_file() {
    verify(
        |s| fs::remove_file(s.path(&find(s, NEWEST, "weights/model.safetensors"))).unwrap(),
        &["weights/model.safetensors"],
    );
}

#[test]
fn verify_names_a_file_cut_short() {
    verify(
        |s| s.edit(&find(s, NEWEST, "weights/model.safetensors"), |bytes| bytes.truncate(bytes.len() - 8)),
        &["weights/model.safetensors"],
    );
}

#[test]
fn verify_without_a_checkpoint() {
    let output = Sandbox::new().run(&["checkpoint", "verify", "none"]);
    assert_eq!(faults(&output, 2, &["none"]), Vec::<String>::new());
}
