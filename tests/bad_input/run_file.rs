//! Run files and what is laid over them.

use std::fs;

use crate::support::{Case, Sandbox, TRAIN, check, faults};

/// One edit of the run file that is right: what is replaced, by what, and what the message must contain.
type Edit = (&'static str, &'static str, &'static str, &'static [&'static str]);

#[rustfmt::skip] // a table: one mistake, one line
const EDITS: &[Edit] = &[
    ("TOML syntax", "lr = 1e-3", "lr = = 1e-3", &["run.toml", "run.toml:21"]),
    ("an unknown section", "[optimizer]", "[teleport]\nx = 1\n[optimizer]", &["run.toml", "teleport", "sections are"]),
    ("an unknown key", "lr = 1e-3", "lr = 1e-3\nzzz = 1", &["run.toml", "optimizer.zzz", "keys of optimizer are"]),
    ("a misspelt key", "hidden_size", "hiden_size", &["model.hiden_size", "model.hidden_size"]),
    ("a key of another section", "lr = 1e-3", "lr = 1e-3\nseq_len = 16", &["optimizer.seq_len", "training.seq_len"]),
    ("the learning rate as others call it", "lr = 1e-3", "learning_rate = 1e-3", &["learning_rate", "optimizer.lr"]),
    ("gradient accumulation as others call it", "steps = 2", "steps = 2\ngradient_accumulation_steps = 4", &["gradient_accumulation_steps", "global_batch"]),
    ("layers as others call them", "num_layers", "n_layer", &["n_layer", "model.num_layers"]),
    ("the batch as others call it", "global_batch", "per_device_train_batch_size", &["per_device_train_batch_size", "micro_batch"]),
    ("text for a number", "hidden_size = 16", "hidden_size = \"16\"", &["run.toml", "model.hidden_size", "\"16\""]),
    ("a fraction for an integer", "num_heads = 2", "num_heads = 2.5", &["model.num_heads", "2.5"]),
    ("a number for a text", "name = \"tiny\"", "name = 5", &["run.name", "5"]),
    ("a value for a section", "[optimizer]\nlr = 1e-3", "stage = 4\n[optimizer]\nlr = 1e-3", &["stage"]),
    ("NaN", "lr = 1e-3", "lr = nan", &["optimizer.lr", "nan"]),
    ("infinity", "lr = 1e-3", "lr = inf", &["optimizer.lr", "inf"]),
    ("a negative learning rate", "lr = 1e-3", "lr = -1.0", &["optimizer.lr", "-1"]),
    ("a negative integer", "steps = 2", "steps = -2", &["training.steps", "-2"]),
    ("zero layers", "num_layers = 1", "num_layers = 0", &["model.num_layers", "0"]),
    ("a beta of 1", "lr = 1e-3", "lr = 1e-3\nbetas = [0.9, 1.0]", &["optimizer.betas", "1.0"]),
    ("an unknown choice", "lr = 1e-3", "lr = 1e-3\nname = \"sgd\"", &["optimizer.name", "\"sgd\"", "adamw"]),
    ("what is not there yet", "lr = 1e-3", "lr = 1e-3\nname = \"muon\"", &["optimizer.name", "\"muon\"", "not yet"]),
    #[cfg(not(any(feature = "cuda", feature = "emulator")))]
    ("a device that this build lacks", "threads = 1", "device = \"cuda\"", &["run.device", "\"cuda\"", "--features", "cpu"]),
    ("steps and tokens", "steps = 2", "steps = 2\ntokens = 4096", &["training.tokens", "training.steps", "keep one"]),
    ("neither steps nor tokens", "steps = 2\n", "", &["training.steps", "training.tokens"]),
    ("steps and minutes between checkpoints", "every_steps = 1", "every_steps = 1\nevery_minutes = 3", &["checkpoint.every_minutes", "checkpoint.every_steps", "keep one"]),
    ("a decay without wsd", "lr = 1e-3", "lr = 1e-3\n[schedule]\nname = \"cosine\"\ndecay_steps = 1", &["schedule.decay_steps", "wsd"]),
    ("a warm-up longer than the run", "lr = 1e-3", "lr = 1e-3\n[schedule]\nwarmup_steps = 9", &["schedule.warmup_steps", "9", "2 steps"]),
    ("sources and data to prepare", "[training]", "[data.prepare]\ntext = [\"*.txt\"]\nvocab_size = 300\n[training]", &["data.sources", "data.prepare"]),
    ("heads that do not divide the width", "num_heads = 2", "num_heads = 3", &["model.", "16", "3"]),
    ("heads that key heads do not divide", "num_heads = 2", "num_heads = 2\nnum_kv_heads = 3", &["model.num_kv_heads", "3"]),
    ("an odd head", "num_heads = 2", "num_heads = 2\nhead_dim = 7", &["model.head_dim", "7", "even"]),
    ("a batch that does not divide", "global_batch = 2", "global_batch = 2\nmicro_batch = 4", &["training.global_batch", "2", "micro_batch"]),
    ("a mesh beyond one rank", "[optimizer]", "[mesh]\ntp = 2\n[optimizer]", &["mesh.tp", "2"]),
    ("a window for llama", "num_heads = 2", "num_heads = 2\nsliding_window = 8", &["model.sliding_window", "8"]),
    ("an unknown preset", "vocab_size = 320", "preset = \"gpt-9\"\nvocab_size = 320", &["model.preset", "\"gpt-9\""]),
    ("a version of the future", "config_version = 1", "config_version = 9", &["config_version", "9"]),
    ("a variable that is not set", "dir = \"run\"", "dir = \"${TISSERAND_UNSET_VARIABLE}/run\"", &["run.dir", "TISSERAND_UNSET_VARIABLE"]),
    ("no learning rate", "lr = 1e-3\n", "", &["optimizer.lr"]),
    ("a Unix group that does not exist", "threads = 1", "group = \"no-such-group\"", &["run.group", "no-such-group", "hint"]),
];

#[test]
fn mistakes_in_the_run_file() {
    let mut failures = Vec::new();
    for &(name, old, new, expected) in EDITS {
        let sandbox = Sandbox::new();
        sandbox.replace("run.toml", old, new);
        let output = sandbox.run(TRAIN);
        println!("{name}: {}", String::from_utf8_lossy(&output.stderr));
        let mut faults = faults(&output, 2, expected);
        if sandbox.path("run/checkpoints").exists() {
            faults.push("the run folder was made".to_owned());
        }
        if !faults.is_empty() {
            failures.push(format!(
                "{name}: {}\n    {}",
                faults.join("; "),
                String::from_utf8_lossy(&output.stderr)
            ));
        }
    }
    assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), EDITS.len(), failures.join("\n"));
}

#[test]
fn run_files_that_are_none() {
    let case = |name, prepare, args, expected| Case { name, prepare, args, expected };
    check(&[
        case("a missing run file", |_| (), &["train", "none.toml"], &["none.toml", "no such file", "hint: "]),
        case("a folder", |s| fs::create_dir(s.path("a.toml")).unwrap(), &["train", "a.toml"], &["a.toml"]),
        case(
            "not UTF-8",
            |s| s.write("a.toml", [0xff, 0xfe, 0x00]),
            &["train", "a.toml"],
            &["a.toml", "UTF-8"],
        ),
        case("an empty file", |s| s.write("a.toml", ""), &["train", "a.toml"], &["a.toml"]),
        case("a binary", |s| s.write("a.toml", [0_u8; 64]), &["train", "a.toml"], &["a.toml", "a.toml:1"]),
    ]);
}

#[test]
fn mistakes_after_set() {
    const SETS: &[(&str, &[&str])] = &[
        ("optimizer.lr", &["--set \"optimizer.lr\"", "section.key=value"]),
        ("optimizer.lr=", &["--set: optimizer.lr", "a positive number"]),
        ("=3", &["--set \"=3\"", "section.key=value"]),
        ("lr=3", &["--set", "lr", "optimizer.lr"]),
        ("optimizer.lrr=3", &["--set", "optimizer.lrr", "optimizer.lr"]),
        ("optimizer.lr=fast", &["--set", "optimizer.lr", "fast"]),
        ("optimizer.lr=nan", &["--set", "optimizer.lr", "nan"]),
        ("optimizer.lr.x=1", &["--set", "optimizer.lr"]),
        ("model.num_layers=1.5", &["--set", "model.num_layers", "1.5"]),
        ("data.sources.path=x", &["--set", "data.sources"]),
    ];
    let mut failures = Vec::new();
    for (set, expected) in SETS {
        let sandbox = Sandbox::new();
        let output = sandbox.run(&["train", "run.toml", "--quiet", "--set", set]);
        let faults = faults(&output, 2, expected);
        println!("--set {set}: {}", String::from_utf8_lossy(&output.stderr));
        if !faults.is_empty() {
            failures.push(format!(
                "{set}: {}\n    {}",
                faults.join("; "),
                String::from_utf8_lossy(&output.stderr)
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_model_beyond_all_memory_is_a_fault_at_run_time() {
    let output =
        Sandbox::new().run(&["train", "run.toml", "--quiet", "--set", "model.vocab_size=2000000000"]);
    assert_eq!(faults(&output, 1, &["cannot allocate", "bytes", "hint: "]), Vec::<String>::new());
}
