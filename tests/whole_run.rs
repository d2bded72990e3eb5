//! What a run leaves behind and what other commands do with it; starts from other models; runs that diverge.

mod support {
    pub(crate) mod run;
}

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use safetensors::SafeTensors;
use serde_json::Value;
use support::run::{Run, errors, tisserand, write_texts};
use tisserand_runtime::data::TokenFileWriter;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/llama-tiny");

/// The first update throws the weights so far that every later forward pass overflows.
const DIVERGES: [&str; 5] = [
    "optimizer.lr=1e30",
    "optimizer.grad_clip=0",
    "schedule.name=constant",
    "schedule.warmup_steps=0",
    "eval.every_steps=0",
];

/// Everything below a folder, itself included.
fn below(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![path.to_owned()];
    if path.is_dir() {
        found.extend(fs::read_dir(path).unwrap().flat_map(|entry| below(&entry.unwrap().path())));
    }
    found
}

/// Every value of every f32 tensor in a folder's safetensors files.
fn values(folder: &Path) -> Vec<f32> {
    let mut all = Vec::new();
    for path in below(folder).iter().filter(|path| path.extension().is_some_and(|e| e == "safetensors")) {
        let bytes = fs::read(path).unwrap();
        for (_, tensor) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            assert_eq!(tensor.dtype(), safetensors::Dtype::F32);
            let words = tensor.data().chunks_exact(4);
            all.extend(words.map(|word| f32::from_le_bytes(word.try_into().unwrap())));
        }
    }
    assert!(!all.is_empty());
    all
}

#[test]
fn files_follow_the_umask_and_the_group() {
    let own_group = nix::unistd::Group::from_gid(nix::unistd::getgid()).unwrap().unwrap().name;
    for (umask, group, file_mode, folder_mode) in
        [("027", "", 0o640, 0o750), ("002", "", 0o664, 0o775), ("077", own_group.as_str(), 0o640, 0o2750)]
    {
        let texts = tempfile::tempdir().unwrap();
        write_texts(texts.path());
        let sets = ["log.tensorboard=true", "checkpoint.weights_every_steps=5"];
        let mut run = Run::prepared(texts.path(), &sets);
        run.set(&[&format!("run.group={group:?}")]);
        let train = run.command();
        let output = Command::new("sh")
            .args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"])
            .arg(train.get_program())
            .args(train.get_args())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", errors(&output));
        let paths = below(&run.dir());
        assert!(paths.len() > 25, "{paths:?}");
        for path in paths {
            let mode = path.metadata().unwrap().permissions().mode() & 0o7777;
            let want = if path.is_dir() { folder_mode } else { file_mode };
            assert_eq!(mode, want, "{}: {mode:o}, umask {umask}", path.display());
        }
    }
}

#[test]
fn records_of_saves_name_folders_below_the_run() {
    let sets = ["training.steps=4", "checkpoint.every_steps=2", "checkpoint.weights_every_steps=4"];
    let run = Run::new(&sets);
    run.exits(0);
    let records = run.records("checkpoint");
    let paths: Vec<&str> = records.iter().map(|record| record["path"].as_str().unwrap()).collect();
    let checkpoints = paths.iter().filter(|path| path.starts_with("checkpoints/step-")).count();
    let weights = paths.iter().filter(|path| path.starts_with("weights/step-")).count();
    assert_eq!((checkpoints, weights, paths.len()), (2, 1, 3), "{paths:?}");
    assert!(paths.iter().all(|path| run.dir().join(path).is_dir()), "{paths:?}");
}

#[test]
fn losses_are_drawn_and_equal_runs_differ_by_nothing() {
    let run = Run::new(&["training.steps=4", "checkpoint.every_steps=0", "eval.every_steps=0"]);
    run.exits(0);
    let other = run.and(&[]);
    other.exits(0);
    let page = run.dir().with_file_name("loss.html");
    let said = tisserand(["plot", &run.dir_name(), &other.dir_name(), "--out", page.to_str().unwrap()]);
    assert!(said.contains("over 4 steps: mean 0.000e0, largest 0.000e0"), "{said}");
    assert_eq!(fs::read_to_string(page).unwrap().matches("<figure>").count(), 2);
}

#[test]
fn the_weights_of_a_checkpoint_are_a_hugging_face_folder() {
    let run = Run::new(&["training.steps=3"]);
    run.exits(0);
    let weights = run.checkpoint(3).join("weights");
    let config: Value = serde_json::from_slice(&fs::read(weights.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["architectures"], serde_json::json!(["LlamaForCausalLM"]));
    assert_eq!((&config["vocab_size"], &config["hidden_size"]), (&320.into(), &32.into()));
    assert!(weights.join("tokenizer.json").is_file());
    let bytes = fs::read(weights.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("model.layers.1.self_attn.q_proj.weight").unwrap().shape(), [32, 32]);
    assert_eq!(tensors.tensor("lm_head.weight").unwrap().shape(), [320, 32]);
    // It opens as one, without anything around it.
    let alone = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(&weights).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), alone.path().join(entry.file_name())).unwrap();
    }
    let text = |folder: &Path| {
        tisserand(["generate", "--checkpoint", folder.to_str().unwrap(), "--max-tokens", "20"])
    };
    assert_eq!(text(alone.path()), text(&run.dir()));
}

#[test]
fn a_run_starts_from_a_checkpoint() {
    let mut first = Run::new(&["training.steps=12", "schedule.name=constant", "checkpoint.every_steps=6"]);
    first.exits(0);
    let from = first.checkpoint(6).display().to_string();
    first.set(&[&format!("init.from={from}")]);

    // Everything: the same run in another folder.
    let all = first.and(&["init.load=all"]);
    all.exits(0);
    let tail =
        |run: &Run| -> Vec<_> { run.history().into_iter().filter(|((step, _), _)| *step > 6).collect() };
    assert_eq!(tail(&all), tail(&first));
    assert_eq!(all.history().len(), tail(&all).len());
    assert_eq!(all.digest(), first.digest());
    let refusal = first.and(&["init.load=all", "training.steps=6"]).exits(2);
    assert!(refusal.contains("goes on after step 6"), "{refusal}");

    // Weights: from step 0 on, with the loss of a trained model; and moments with them, which is another update.
    let weights = first.and(&["init.load=weights"]);
    weights.exits(0);
    let optimizer = first.and(&["init.load=weights+optimizer"]);
    optimizer.exits(0);
    for run in [&weights, &optimizer] {
        assert_eq!(run.records("step").len(), 12);
        assert!(run.losses()[0] < first.losses()[1], "{:?} {:?}", run.losses(), first.losses());
    }
    assert_eq!(weights.losses()[0], optimizer.losses()[0]);
    assert_ne!(weights.losses()[2], optimizer.losses()[2]);
}

#[test]
fn a_run_starts_from_a_hugging_face_folder() {
    let data = tempfile::tempdir().unwrap();
    let prefix = data.path().join("bytes");
    let mut writer = TokenFileWriter::create(&prefix, 256).unwrap();
    for document in 0..40_u32 {
        let tokens: Vec<u32> = (0..20 + document).map(|i| (i * i + 7 * document) % 256).collect();
        writer.push_document(&tokens).unwrap();
    }
    writer.finish().unwrap();
    let sources = format!("data.sources=[{{ path = {prefix:?} }}]");
    let hf_config = format!("model.hf_config={FIXTURE}/config.json");
    let from = format!("init.from={FIXTURE}");
    let fixture = [
        &sources,
        &hf_config,
        &from,
        "tokenizer.path=",
        "training.steps=3",
        "model.vocab_size=256",
        "model.hidden_size=64",
        "model.intermediate_size=176",
        "model.num_heads=4",
        "model.num_kv_heads=2",
        "model.head_dim=16",
        "optimizer.lr=1e-30",
        "optimizer.weight_decay=0",
        "checkpoint.every_steps=1",
    ];
    let run = Run::new(&fixture);
    run.exits(0);
    // The learning rate is too small to change a bit.
    let weights = run.checkpoint(3).join("weights").display().to_string();
    let said = tisserand(["checkpoint", "diff", FIXTURE, &weights]);
    assert!(said.trim_end().ends_with("tensors are bit-equal"), "{said}");

    let refusal = run.and(&["init.load=all"]).exits(2);
    assert!(refusal.contains("without optimizer state"), "{refusal}");
    let refusal = run.and(&["model.intermediate_size=160"]).exits(2);
    assert!(refusal.contains("mlp") && refusal.lines().count() == 1, "{refusal}");
}

#[test]
fn steps_that_are_not_finite_are_skipped_counted_and_end_the_run() {
    let mut run = Run::new(&DIVERGES);
    run.set(&["training.max_skipped_steps=4", "checkpoint.every_steps=1"]);
    let message = run.exits(1);
    assert!(message.contains("4 steps in a row from step 2 on were not finite"), "{message}");
    assert!(message.contains("gradient of model.") && message.contains("hint: "), "{message}");
    assert_eq!(message.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{message}");
    let status = run.status();
    assert_eq!((&status["state"], &status["exit_code"]), (&"failed".into(), &1.into()));
    assert!(message.contains(status["message"].as_str().unwrap()), "{status}");
    let log = fs::read_to_string(run.dir().join("jobs/0001-local/rank0.log")).unwrap();
    assert!(log.contains(message.lines().last().unwrap()), "{log}");

    let skipped: Vec<u64> =
        run.records("step").iter().map(|step| step["skipped"].as_u64().unwrap()).collect();
    assert_eq!(skipped, [0, 1, 2, 3]);
    assert!(values(&run.checkpoint(4)).iter().all(|value| value.is_finite()));
    let [before, after] = [3, 4].map(|step| run.checkpoint(step).display().to_string());
    tisserand(["checkpoint", "diff", &before, &after]);

    // The count goes on where it was.
    let again = run.exits(1);
    assert!(again.contains("4 steps in a row from step 2 on were not finite"), "{again}");
}

#[test]
fn skipped_steps_survive_a_resume_bit_for_bit() {
    let mut whole = Run::new(&DIVERGES);
    // Between log lines the host does not know how many steps were skipped.
    whole.set(&["training.max_skipped_steps=1000", "training.steps=30", "log.every_steps=4"]);
    whole.exits(0);
    let mut parts = whole.and(&["run.max_minutes=1e-6"]);
    for _ in 0..4 {
        parts.exits(75);
    }
    parts.set(&["run.max_minutes=0"]);
    parts.exits(0);
    parts.assert_equals(&whole);
    assert_eq!(parts.records("step").pop().unwrap()["skipped"], 29);
}

#[test]
fn eval_generate_and_data_order_agree_with_the_run() {
    for compute in ["precision.compute=f32", "precision.compute=bf16"] {
        let run = Run::new(&[compute, "training.z_loss=1e-4"]);
        let run_file = run.run_file();
        let with_run_file =
            |command: &[&str]| tisserand(command.iter().copied().chain(run_file.iter().map(String::as_str)));
        let order = with_run_file(&["data", "order", "--steps", "1..10"]);
        run.exits(0);
        assert_eq!(with_run_file(&["data", "order", "--steps", "1..10"]), order);
        assert_ne!(with_run_file(&["data", "order", "--steps", "2..10"]), order);

        let eval = with_run_file(&["eval", "--json", "--checkpoint", &run.dir_name()]);
        let eval: Value = serde_json::from_str(&eval).unwrap();
        let last = run.records("eval").pop().unwrap();
        for key in ["step", "name", "loss", "tokens"] {
            assert_eq!(eval[key], last[key], "{compute}: {key}");
        }

        let dir = run.dir_name();
        let generate = |seed: &str| {
            let options =
                ["--prompt", "the weaver", "--max-tokens", "40", "--temperature", "1", "--seed", seed];
            tisserand(["generate", "--checkpoint", &dir].into_iter().chain(options))
        };
        assert_eq!(generate("1"), generate("1"));
        assert_ne!(generate("1"), generate("2"));
        assert!(generate("1").starts_with("the weaver"));
    }
}

#[test]
fn a_run_keeps_the_prepared_data_that_it_began_with() {
    let texts = tempfile::tempdir().unwrap();
    write_texts(texts.path());
    let whole = Run::prepared(texts.path(), &[]);
    whole.exits(0);
    let mut parts = Run::prepared(texts.path(), &["run.max_minutes=1e-6"]);
    parts.exits(75);
    // Ends without a checkpoint.
    let mut failed = Run::prepared(texts.path(), &DIVERGES);
    failed.set(&["training.max_skipped_steps=1"]);
    failed.exits(1);

    fs::write(texts.path().join("new.txt"), "another document. ".repeat(50)).unwrap();
    parts.set(&["run.max_minutes=0"]);
    parts.exits(0);
    parts.assert_equals(&whole);
    let built = |run: &Run| fs::read_to_string(run.dir().join("data/prepare.json")).unwrap();
    assert_eq!(built(&failed), built(&parts));
    failed.exits(1);
    assert_ne!(built(&failed), built(&parts));
}
