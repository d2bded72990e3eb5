//! Run files as users write them: what they become, and what is said about bad ones.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tisserand_kernels::DType;
use tisserand_runtime::config::*;
use tisserand_runtime::model_config::{Architecture, RopeScaling};
use tisserand_runtime::{Error, Result};

const BASE: &str = r#"
config_version = 1

[run]
name = "small"

[model]
vocab_size = 512
hidden_size = 64
intermediate_size = 176
num_layers = 4
num_heads = 4
num_kv_heads = 2

[data]
sources = [{ path = "tok/fr", weight = 0.6, max_epochs = 2 }, { path = "tok/code", weight = 0.4 }]
validation = [{ name = "fr", path = "tok/val_fr" }]
skip = [[10, 12], [20, 20]]

[training]
seq_len = 32
global_batch = 8
micro_batch = 2
steps = 1000

[optimizer]
lr = 3e-4
groups = [{ match = "*norm*", weight_decay = 0.0 }]

[schedule]
name = "wsd"
warmup_steps = 10
decay_steps = 100
"#;

fn environment(name: &str) -> Option<String> {
    (name == "SCRATCH").then(|| "/scratch/me".to_owned())
}

fn parse(text: &str, sets: &[&str]) -> Result<Config> {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    Config::parse(text, "run.toml", &sets, None, &environment)
}

/// BASE with `from` replaced by `to`.
fn edited(from: &str, to: &str) -> String {
    assert!(BASE.contains(from), "{from:?} is not in BASE");
    BASE.replacen(from, to, 1)
}

fn one_line(result: Result<Config>) -> String {
    let error = result.expect_err("accepted");
    assert_eq!(error.exit_code(), 2, "{error}");
    let message = error.to_string();
    assert!(!message.contains('\n'), "{message:?} has more than one line");
    message
}

#[test]
fn a_short_run_file_has_documented_defaults() {
    let config = parse(BASE, &[]).unwrap();
    assert_eq!(config.run.dir, PathBuf::from("runs/small"));
    assert_eq!((config.run.seed, config.run.device, config.run.max_minutes), (1234, DeviceKind::Cpu, None));
    assert_eq!(config.model.head_dim, 16);
    assert_eq!((config.model.norm_eps, config.model.rope_theta), (1e-5, 1e4));
    assert_eq!(config.model.max_position_embeddings, 32);
    assert_eq!(config.model.windows, vec![None; 4]);
    assert!(config.model.init.depth_scaled);
    assert_eq!(config.data.sources[0].max_epochs, Some(2.0));
    assert_eq!(config.data.skip, [(10, 12), (20, 20)]);
    assert!(config.data.document_mask);
    assert_eq!((config.grad_accum(), config.tokens_per_step()), (4, 256));
    assert_eq!((config.optimizer.betas, config.optimizer.grad_clip), ([0.9, 0.95], Some(1.0)));
    assert_eq!(config.mesh, Mesh { dp_replicate: 1, dp_shard: 1, tp: 1, zero: 3 });
    assert_eq!(config.precision.compute, DType::F32);
    assert_eq!(config.recompute, Recompute { mode: RecomputeMode::None, blocks: 4 });
    assert_eq!((config.checkpoint.every_minutes, config.checkpoint.every_steps), (Some(30.0), None));
    assert_eq!(config.eval, Eval { every_steps: Some(1000), max_tokens: 4_000_000 });
    assert_eq!(config.init, InitFrom { from: None, load: InitLoad::Weights });
}

#[test]
fn lengths_in_tokens_become_whole_steps() {
    let tokens = edited("steps = 1000", "tokens = 256_001");
    let sets = [
        "schedule.warmup_tokens=257",
        "schedule.decay_tokens=512",
        "checkpoint.keep_every_tokens=1000",
        "checkpoint.weights_every_tokens=256",
    ];
    let config = parse(&tokens, &sets).unwrap();
    assert_eq!(config.training.steps, 1001);
    assert_eq!((config.schedule.warmup_steps, config.schedule.decay_steps), (2, 2));
    assert_eq!(config.checkpoint.keep_every_steps, Some(4));
    assert_eq!(config.checkpoint.weights_every_steps, Some(1));
}

#[test]
fn set_overrides_the_file_and_displaces_the_alternative() {
    let config = parse(
        BASE,
        &[
            "training.tokens=2560",
            "run.name=a b",
            "schedule.name=cosine",
            "optimizer.lr=1",
            "run.dir=${SCRATCH}/x",
        ],
    );
    let message = one_line(config);
    assert!(message.contains("schedule.decay_steps"), "{message}");
    let base = edited("decay_steps = 100", "").replace("wsd", "cosine");
    let sets = [
        "training.tokens=25600",
        "run.name=a b",
        "optimizer.lr=1",
        "run.dir=${SCRATCH}/x",
        "log.every_steps=1",
    ];
    let config = parse(&base, &sets).unwrap();
    assert_eq!((config.training.steps, config.optimizer.lr, config.log.every_steps), (100, 1.0, 1));
    assert_eq!((config.run.name.as_str(), config.run.dir.to_str()), ("a b", Some("/scratch/me/x")));
    assert_eq!(parse(&base, &["data.sources=[{path='a'}]"]).unwrap().data.sources[0].weight, 1.0);
}

#[test]
fn the_vocabulary_of_prepared_data_is_the_models() {
    let text = edited("vocab_size = 512\n", "").replace("sources = ", "#");
    let text =
        text.replace("[training]", "[data.prepare]\ntext = [\"**/*.rs\"]\nvocab_size = 300\n[training]");
    let config = parse(&text, &[]).unwrap();
    assert_eq!(config.model.vocab_size, 300);
    assert!(config.data.sources.is_empty());
    assert_eq!(parse(&config.to_toml(), &[]).unwrap(), config);
}

#[test]
fn presets_and_hugging_face_configs_are_overridden_by_keys() {
    let from = |line: &str| {
        let start = BASE.find("[model]").unwrap();
        let end = BASE.find("[data]").unwrap();
        parse(&format!("{}[model]\n{line}\n{}", &BASE[..start], &BASE[end..]), &[])
    };
    let config = from("preset = \"mistral-7b\"\nnum_layers = 2\nsliding_window = 128").unwrap();
    assert_eq!((config.model.architecture, config.model.hidden_size), (Architecture::Mistral, 4096));
    assert_eq!(config.model.windows, [Some(128), Some(128)]);
    let scaled = "preset = \"llama3-8b\"\nrope_scaling = { type = \"llama3\", factor = 8, low_freq_factor = 1, \
                  high_freq_factor = 4, original_max_position_embeddings = 8192 }";
    assert!(matches!(from(scaled).unwrap().model.rope_scaling, RopeScaling::Llama3 { factor: 8.0, .. }));
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/qwen3-tiny/config.json");
    let config = from(&format!("hf_config = {fixture:?}\ntie_embeddings = true")).unwrap();
    assert!(config.model.qk_norm && config.model.tie_embeddings);
    let message = one_line(from("hf_config = \"nowhere/config.json\""));
    assert!(message.starts_with("cannot read nowhere/config.json: "), "{message}");
}

#[test]
fn resolved_toml_loads_to_an_equal_config() {
    let variants: &[&[&str]] = &[
        &[],
        &["run.name=$ ${SCRATCH} $${X}", "run.max_minutes=12.5", "run.group=team", "run.threads=2"],
        &["model.architecture=qwen2", "model.sliding_window=8", "recompute.mode=full", "recompute.blocks=2"],
        &[
            "model.architecture=mistral",
            "model.sliding_window=8",
            "checkpoint.every_steps=7",
            "optimizer.grad_clip=0",
        ],
        &[
            "model.architecture=qwen3",
            "model.sliding_window=8",
            "model.attention_bias=true",
            "model.layer_types=['full_attention','sliding_attention','full_attention','full_attention']",
        ],
        &[
            "model.rope_scaling={type='linear', factor=2}",
            "precision.compute=bf16",
            "checkpoint.every_minutes=0",
        ],
        &["init.from=somewhere", "init.load=weights+optimizer", "model.init={residual='plain', std=0.1}"],
        &[
            "data.validation=[]",
            "training.z_loss=1e-4",
            "optimizer.eps=1e-20",
            "run.seed=9223372036854775807",
        ],
        &["data.validation=[]", "data.validation_fraction=0.01", "eval.max_tokens=100", "eval.every_steps=0"],
        &[
            "model.mlp_bias=true",
            "model.tie_embeddings=true",
            "optimizer.groups=[{match='a*', lr_scale=0.1}]",
        ],
    ];
    for sets in variants {
        // A name with "/" is refused, so the variable is only expanded in a folder.
        let sets: Vec<&str> = sets
            .iter()
            .map(|set| if set.starts_with("run.name") { "run.dir=$ ${SCRATCH} $${X}" } else { set })
            .collect();
        let config = parse(BASE, &sets).unwrap();
        let text = config.to_toml();
        let again = parse(&text, &[]).unwrap_or_else(|error| panic!("{sets:?}: {error}\n{text}"));
        assert_eq!(again, config, "{sets:?}\n{text}");
        assert_eq!(again.to_toml(), text);
        assert!(diff(&config, &again).is_empty());
    }
}

#[test]
fn differences_are_free_or_refused_unless_allowed() {
    let old = parse(BASE, &[]).unwrap();
    let free = [
        "run.threads=2",
        "log.every_steps=1",
        "training.micro_batch=4",
        "checkpoint.every_steps=9",
        "data.validation=[]",
    ];
    let differences = diff(&old, &parse(BASE, &free).unwrap());
    let keys: Vec<&str> = differences.iter().map(|difference| difference.key.as_str()).collect();
    for key in [
        "run.threads",
        "log.every_steps",
        "training.micro_batch",
        "checkpoint.every_minutes",
        "checkpoint.every_steps",
        "eval.max_tokens",
    ] {
        assert!(keys.contains(&key), "{key} in {keys:?}");
    }
    assert!(differences.iter().all(|difference| difference.kind == ChangeKind::Free), "{differences:?}");
    refuse_changes(&differences, &[]).unwrap();

    let differences =
        diff(&old, &parse(BASE, &["training.tokens=512000", "optimizer.lr=1e-3", "run.threads=2"]).unwrap());
    let steps = differences.iter().find(|difference| difference.key == "training.steps").unwrap();
    assert_eq!((steps.old.as_str(), steps.new.as_str(), steps.kind), ("1000", "2000", ChangeKind::Identity));
    let message = refuse_changes(&differences, &["training.tokens".to_owned()]).unwrap_err().to_string();
    assert!(
        message.contains("optimizer.lr from 0.0003 to 0.001") && !message.contains("training.steps"),
        "{message}"
    );
    refuse_changes(&differences, &["training.steps".to_owned(), "optimizer.lr".to_owned()]).unwrap();
    for unknown in ["optimizer.rate", "optimizer", ""] {
        assert!(matches!(refuse_changes(&[], &[unknown.to_owned()]), Err(Error::Input(_))), "{unknown:?}");
    }
}

#[test]
fn the_example_of_all_keys_is_refused_only_for_what_is_not_there_yet() {
    // Every key of the vocabulary once, with values that this version accepts.
    let text = edited(
        "[schedule]",
        "name = \"adamw\"\nbetas = [0.9, 0.95]\neps = 1e-8\nweight_decay = 0.1\ngrad_clip = 1.0\n[schedule]\ndecay_shape = \"1-sqrt\"\nmin_lr_ratio = 0.0",
    ) + r#"
[mesh]
dp_replicate = "auto"
dp_shard = "auto"
tp = 1
zero = 2
[precision]
compute = "bf16"
master = "bf16"
moments = "bf16"
reduce = "f32"
[recompute]
mode = "selective"
blocks = "all"
[checkpoint]
every_minutes = 30
keep_last = 2
keep_every_tokens = 100_000
weights_every_tokens = 10_000
[init]
from = ""
load = "weights"
[eval]
every_steps = 1000
max_tokens = 4_000_000
[log]
every_steps = 10
tensorboard = true
trace_steps = ""
[determinism]
mesh_invariant = false
"#;
    let config = parse(&text, &[]).unwrap();
    assert_eq!((config.mesh.zero, config.precision.moments), (2, DType::Bf16));
    assert_eq!(parse(&config.to_toml(), &[]).unwrap(), config);
}

#[test]
fn files_that_are_no_run_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let load = |path: &Path| one_line(Config::load(path, &[], None, &environment));
    let absent = folder.path().join("absent.toml");
    assert!(load(&absent).contains("absent.toml: no such file"));
    assert!(load(folder.path()).contains("cannot read the run file"));
    let binary = folder.path().join("binary.toml");
    std::fs::write(&binary, [0xff, 0xfe, 0]).unwrap();
    assert!(load(&binary).contains("binary.toml: not UTF-8 text"));
    let good = folder.path().join("named_by_file.toml");
    std::fs::write(&good, BASE.replace("name = \"small\"", "")).unwrap();
    assert_eq!(Config::load(&good, &[], None, &environment).unwrap().run.name, "named_by_file");
}

#[test]
fn the_reference_page_has_the_table_of_keys() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/run-file.md");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains(&reference_table()), "put this into docs/run-file.md:\n{}", reference_table());
}

/// (text of BASE, its replacement, what the message must contain).
type BadFile = (&'static str, &'static str, &'static [&'static str]);

#[rustfmt::skip] // a table: one case, one line
const BAD_FILES: &[BadFile] = &[
    // Syntax.
    ("seq_len = 32", "seq_len = ", &["run.toml:21: not valid TOML"]),
    ("[training]", "[training", &["run.toml:20: not valid TOML"]),
    ("steps = 1000", "steps = 1000\nsteps = 1", &["run.toml:25: not valid TOML", "duplicate"]),
    ("config_version = 1", "config_version = 2", &["config_version = 2, expected 1"]),
    ("config_version = 1", "config_version = \"1\"", &["config_version = \"1\" (string), expected a positive integer"]),
    // Unknown keys.
    ("micro_batch = 2", "micro_batchsize = 2", &["run.toml: unknown key training.micro_batchsize; did you mean training.micro_batch?"]),
    ("seq_len = 32", "seq_ln = 32", &["unknown key training.seq_ln; did you mean training.seq_len?"]),
    ("seq_len = 32", "seq_length = 32", &["did you mean training.seq_len?"]),
    ("global_batch = 8", "train_batch_size = 8", &["did you mean training.global_batch?"]),
    ("micro_batch = 2", "per_device_train_batch_size = 2", &["did you mean training.micro_batch?"]),
    ("micro_batch = 2", "micro-batch-size = 2", &["unknown key training.micro-batch-size; did you mean training.micro_batch?"]),
    ("micro_batch = 2", "gradient_accumulation_steps = 2", &["unknown key training.gradient_accumulation_steps; it is derived"]),
    ("steps = 1000", "max_steps = 1000", &["did you mean training.steps?"]),
    ("steps = 1000", "train_iters = 1000", &["did you mean training.steps?"]),
    ("steps = 1000", "steps = 1000\nlr = 1.0", &["unknown key training.lr; did you mean optimizer.lr?"]),
    ("lr = 3e-4", "learning_rate = 3e-4", &["did you mean optimizer.lr?"]),
    ("lr = 3e-4", "lr = 1\nmax_grad_norm = 1", &["did you mean optimizer.grad_clip?"]),
    ("lr = 3e-4", "lr = 1\nweight_deacy = 1", &["unknown key optimizer.weight_deacy; did you mean optimizer.weight_decay?"]),
    ("warmup_steps = 10", "lr_warmup_iters = 10", &["did you mean schedule.warmup_steps?"]),
    ("num_heads = 4", "num_attention_heads = 4", &["did you mean model.num_heads?"]),
    ("num_layers = 4", "n_layers = 4", &["did you mean model.num_layers?"]),
    ("hidden_size = 64", "dim = 64", &["did you mean model.hidden_size?"]),
    ("num_kv_heads = 2", "rms_norm_eps = 1e-6", &["did you mean model.norm_eps?"]),
    ("[schedule]", "[parallelism]\ntensor_parallel_degree = 2\n[schedule]", &["unknown section [parallelism]; did you mean mesh.tp for its tensor_parallel_degree?"]),
    ("[schedule]", "[mesh]\ndata_parallel_shard_degree = 2\n[schedule]", &["did you mean mesh.dp_shard?"]),
    ("[schedule]", "[zero_optimization]\nstage = 2\n[schedule]", &["did you mean mesh.zero?"]),
    ("[schedule]", "[precision]\nbf16 = true\n[schedule]", &["did you mean precision.compute?"]),
    ("[schedule]", "[checkpoint]\nsave_interval = 5\n[schedule]", &["did you mean checkpoint.every_steps?"]),
    ("[schedule]", "[schedul]", &["unknown section [schedul]; did you mean [schedule]?"]),
    ("[schedule]", "[xyzzy]\nplugh = 1\n[schedule]", &["unknown section [xyzzy]; the sections are run, model"]),
    ("[schedule]", "[log]\nzzzzzz = 1\n[schedule]", &["unknown key log.zzzzzz; the keys of log are every_steps, tensorboard, trace_steps"]),
    ("[run]", "seq_len = 3\n[run]", &["unknown key seq_len; did you mean training.seq_len?"]),
    ("weight = 0.6", "wieght = 0.6", &["unknown key data.sources[0].wieght; did you mean data.sources[].weight?"]),
    // Types and ranges.
    ("seq_len = 32", "seq_len = \"long\"", &["run.toml: training.seq_len = \"long\" (string), expected a positive integer"]),
    ("seq_len = 32", "seq_len = 1", &["training.seq_len = 1, expected an integer from 2"]),
    ("seq_len = 32", "seq_len = 32.0", &["training.seq_len = 32.0 (float), expected a positive integer; hint: write 32"]),
    ("seq_len = 32", "seq_len = true", &["training.seq_len = true"]),
    ("seq_len = 32", "", &["training.seq_len is missing, expected a positive integer"]),
    ("[training]", "[training2]", &["unknown section [training2]; did you mean [training]?"]),
    ("[run]\nname = \"small\"", "run = 3", &["run = 3 (integer), expected a table, as in [run]"]),
    ("global_batch = 8", "global_batch = -8", &["training.global_batch = -8, expected a positive integer"]),
    ("micro_batch = 2", "micro_batch = 0", &["training.micro_batch = 0, expected a positive integer"]),
    ("micro_batch = 2", "micro_batch = 3", &["training.global_batch = 8: not a multiple of micro_batch × data-parallel ranks = 3 × 1 = 3"]),
    ("steps = 1000", "steps = 0", &["training.steps = 0, expected a positive integer"]),
    ("steps = 1000", "tokens = 1e12", &["training.tokens = 1", "hint: write 1000000000000"]),
    ("steps = 1000", "steps = 1000\ntokens = 1000", &["training.tokens = 1000: training.steps = 1000 is given too"]),
    ("steps = 1000", "", &["training.steps is missing, expected a positive integer, or training.tokens"]),
    ("steps = 1000", "steps = 9223372036854775807", &["training.steps = 9223372036854775807: ", "more than 2^63"]),
    ("steps = 1000", "steps = 1000\nz_loss = -1.0", &["training.z_loss = -1.0, expected a number of at least 0"]),
    ("steps = 1000", "steps = 1000\nmax_skipped_steps = -1", &["training.max_skipped_steps = -1, expected an integer of at least 0"]),
    ("lr = 3e-4", "", &["optimizer.lr is missing"]),
    ("lr = 3e-4", "lr = nan", &["optimizer.lr = nan, expected a positive number"]),
    ("lr = 3e-4", "lr = inf", &["optimizer.lr = inf, expected a positive number"]),
    ("lr = 3e-4", "lr = 0", &["optimizer.lr = 0, expected a positive number"]),
    ("lr = 3e-4", "lr = 1e300", &["optimizer.lr = ", "expected a positive number"]),
    ("lr = 3e-4", "lr = 1\nbetas = [0.9, 1.0]", &["optimizer.betas = [0.9, 1.0], expected two numbers, each a number of at least 0 and below 1"]),
    ("lr = 3e-4", "lr = 1\nbetas = 0.9", &["optimizer.betas = 0.9"]),
    ("lr = 3e-4", "lr = 1\neps = 0.0", &["optimizer.eps = 0.0, expected a positive number"]),
    ("lr = 3e-4", "lr = 1\neps = 1e-60", &["optimizer.eps = ", "expected a positive number"]),
    ("lr = 3e-4", "lr = 1\nweight_decay = -0.1", &["optimizer.weight_decay = -0.1"]),
    ("lr = 3e-4", "lr = 1\nname = \"sgd\"", &["optimizer.name = \"sgd\", expected \"adamw\" or \"muon\""]),
    ("weight_decay = 0.0", "", &["optimizer.groups[0].match = \"*norm*\": the group changes nothing"]),
    ("match = \"*norm*\", ", "", &["optimizer.groups[0].match is missing"]),
    ("name = \"wsd\"", "name = \"cos\"", &["schedule.name = \"cos\", expected \"constant\", \"linear\", \"cosine\" or \"wsd\""]),
    ("name = \"wsd\"", "name = \"cosine\"", &["schedule.decay_steps = 100: only schedule.name = \"wsd\""]),
    ("warmup_steps = 10", "warmup_steps = 901", &["schedule.warmup_steps = 901: warm-up of 901 and decay of 100 steps exceed the run's 1000 steps"]),
    ("warmup_steps = 10", "warmup_steps = 10\nwarmup_tokens = 10", &["schedule.warmup_tokens = 10: schedule.warmup_steps = 10 is given too"]),
    ("decay_steps = 100", "decay_steps = 0", &["schedule.decay_steps = 0, expected a positive integer"]),
    ("decay_steps = 100", "decay_steps = 9\ndecay_shape = \"sqrt\"", &["schedule.decay_shape = \"sqrt\", expected \"linear\", \"cosine\" or \"1-sqrt\""]),
    ("decay_steps = 100", "decay_steps = 9\nmin_lr_ratio = 1.5", &["schedule.min_lr_ratio = 1.5, expected a number from 0 to 1"]),
    // The model.
    ("vocab_size = 512", "", &["model.vocab_size is missing"]),
    ("vocab_size = 512", "vocab_size = 3000000000", &["model.vocab_size = 3000000000, expected an integer from 1 to 2147483647"]),
    ("hidden_size = 64", "", &["model.hidden_size is missing", "model.preset"]),
    ("hidden_size = 64", "hidden_size = 66", &["model.num_heads = 4: it does not divide model.hidden_size = 66"]),
    ("hidden_size = 64", "hidden_size = 66\nhead_dim = 16", &["model.num_heads = 4: 4 does not divide hidden_size = 66, as llama needs"]),
    ("hidden_size = 64", "hidden_size = 60", &["model.head_dim: 15 is odd"]),
    ("num_kv_heads = 2", "num_kv_heads = 3", &["model.num_kv_heads = 3: 3 does not divide num_heads = 4"]),
    ("num_layers = 4", "num_layers = 100000", &["model.num_layers = 100000, expected an integer from 1 to 10000"]),
    ("num_layers = 4", "num_layers = 4\npreset = \"llama9\"", &["model.preset = \"llama9\", expected \"llama2-7b\""]),
    ("num_layers = 4", "num_layers = 4\npreset = \"llama3-8b\"\nhf_config = \"x\"", &["model.preset = \"llama3-8b\": model.hf_config is given too"]),
    ("num_layers = 4", "num_layers = 4\narchitecture = \"gpt2\"", &["model.architecture = \"gpt2\", expected \"llama\", \"mistral\", \"qwen2\" or \"qwen3\""]),
    ("num_layers = 4", "num_layers = 4\nsliding_window = 8", &["model.sliding_window = 8: llama has no sliding window"]),
    ("num_layers = 4", "num_layers = 4\nsliding_window = -1", &["model.sliding_window = -1, expected an integer of at least 0"]),
    ("num_layers = 4", "num_layers = 4\nlayer_types = [\"full_attention\"]", &["model.layer_types = [\"full_attention\"]: 1 entries for model.num_layers = 4"]),
    ("num_layers = 4", "num_layers = 1\nlayer_types = [\"sliding_attention\"]", &["sliding_attention needs model.sliding_window > 0"]),
    ("num_layers = 4", "num_layers = 1\nlayer_types = [\"chunked_attention\"]", &["model.layer_types", "expected \"full_attention\" or \"sliding_attention\""]),
    ("num_layers = 4", "num_layers = 4\narchitecture = \"mistral\"\nattention_bias = true", &["model.attention_bias = true: mistral has no biases"]),
    ("num_layers = 4", "num_layers = 4\narchitecture = \"qwen2\"\nattention_bias = false", &["model.attention_bias = false: qwen2 always has biases"]),
    ("num_layers = 4", "num_layers = 4\narchitecture = \"qwen3\"\nmlp_bias = true", &["model.mlp_bias = true: qwen3 has no biases in its feed-forward layer"]),
    ("num_layers = 4", "num_layers = 4\ntie_embeddings = 1", &["model.tie_embeddings = 1", "expected true or false"]),
    ("num_layers = 4", "num_layers = 4\nrope_scaling = { type = \"yarn\", factor = 4 }", &["model.rope_scaling.type = \"yarn\", expected \"none\", \"linear\" or \"llama3\""]),
    ("num_layers = 4", "num_layers = 4\nrope_scaling = { type = \"linear\" }", &["model.rope_scaling.factor is missing"]),
    ("num_layers = 4", "num_layers = 4\nrope_scaling = { rope_type = \"linear\" }", &["unknown key model.rope_scaling.rope_type; did you mean model.rope_scaling.type?"]),
    ("num_layers = 4", "num_layers = 4\nrope_scaling = { type = \"llama3\", factor = 8, low_freq_factor = 4, high_freq_factor = 4, original_max_position_embeddings = 8192 }", &["low_freq_factor = 4 must be below high_freq_factor = 4"]),
    ("num_layers = 4", "num_layers = 4\ninit = { residual = \"none\" }", &["model.init.residual = \"none\", expected \"depth_scaled\" or \"plain\""]),
    // Data.
    ("sources = ", "#", &["data.sources is missing"]),
    ("path = \"tok/fr\", ", "", &["data.sources[0].path is missing"]),
    ("path = \"tok/fr\"", "path = \"tok/code\"", &["data.sources[1].path = \"tok/code\": this source stands twice"]),
    ("weight = 0.6", "weight = 0", &["data.sources[0].weight = 0, expected a positive number"]),
    ("max_epochs = 2", "max_epochs = 0.0", &["data.sources[0].max_epochs = 0.0, expected a positive number"]),
    ("validation = [", "validation = [{ name = \"fr\", path = \"x\" }, ", &["data.validation[1].name = \"fr\": two validation sets have this name"]),
    ("validation = [", "validation_fraction = 0.1\nvalidation = [", &["data.validation_fraction = 0.1: data.validation is given too"]),
    ("validation = [", "validation_fraction = 1.0\n#", &["data.validation_fraction = 1.0, expected a number of at least 0 and below 1"]),
    ("skip = [[10, 12], [20, 20]]", "skip = [[10, 12], [12, 20]]", &["data.skip = [[10, 12], [12, 20]], expected an array of [first, last]"]),
    ("skip = [[10, 12], [20, 20]]", "skip = [3]", &["data.skip = [3], expected"]),
    ("skip = [[10, 12], [20, 20]]", "prepare = { text = [\"*.rs\"], vocab_size = 300 }", &["data.prepare", "data.sources is given too"]),
    ("skip = [[10, 12], [20, 20]]", "prefetch_batches = 0", &["data.prefetch_batches = 0, expected a positive integer"]),
    ("sources = [", "prepare = { text = [\"*.rs\"], vocab_size = 100 }\n#", &["data.prepare.vocab_size = 100, expected an integer from 257"]),
    ("sources = [", "prepare = { text = [], vocab_size = 300 }\n#", &["data.prepare.text = [], expected at least one glob"]),
    ("sources = [", "prepare = { text = [\"a**b\"], vocab_size = 300 }\n#", &["data.prepare.text", "is not a glob"]),
    ("sources = [", "prepare = { text = [\"*.rs\"], vocab_size = 513 }\n#", &["model.vocab_size = 512: data.prepare.vocab_size = 513 does not fit"]),
    // The rest.
    ("name = \"small\"", "name = \"a/b\"", &["run.name = \"a/b\", expected a name without"]),
    ("name = \"small\"", "dir = \"${NOWHERE}/x\"", &["run.dir = \"${NOWHERE}/x\": environment variable \"NOWHERE\" is not set"]),
    ("name = \"small\"", "dir = \"${SCRATCH/x\"", &["run.dir", "\"${\" without \"}\""]),
    ("name = \"small\"", "device = \"gpu\"", &["run.device = \"gpu\", expected \"cpu\" or \"cuda\""]),
    ("name = \"small\"", "seed = -1", &["run.seed = -1, expected an integer of at least 0"]),
    ("name = \"small\"", "max_minutes = -1", &["run.max_minutes = -1, expected a number of at least 0"]),
    ("name = \"small\"", "collective_timeout_s = 0.0", &["run.collective_timeout_s = 0.0, expected a positive number"]),
    ("name = \"small\"", "cuda_graph = 1", &["run.cuda_graph = 1 (integer), expected true or false"]),
    ("name = \"small\"", "cuda_graph = true", &["run.cuda_graph = true: run.device = \"cpu\" has no graphs; hint: run.device = \"cuda\""]),
    ("name = \"small\"", "device = \"cuda\"\ncuda_graph = true\n[mesh]\ntp = 2", &["run.cuda_graph = true: a graph holds no communication, but the run has 2 ranks; hint: one rank"]),
    ("name = \"small\"", "plan_check = true", &["run.plan_check = true (boolean), expected \"warn\" or \"error\""]),
    ("[schedule]", "[mesh]\nzero = 4\n[schedule]", &["mesh.zero = 4, expected an integer from 0 to 3"]),
    ("[schedule]", "[mesh]\ntp = 0\n[schedule]", &["mesh.tp = 0, expected a positive integer or \"auto\""]),
    ("[schedule]", "[precision]\ncompute = \"fp16\"\n[schedule]", &["precision.compute = \"fp16\", expected \"f32\" or \"bf16\""]),
    ("[schedule]", "[recompute]\nmode = \"full\"\nblocks = 5\n[schedule]", &["recompute.blocks = 5, expected an integer from 1 to 4"]),
    ("[schedule]", "[recompute]\nblocks = 2\n[schedule]", &["recompute.blocks = 2: it needs recompute.mode"]),
    ("[schedule]", "[checkpoint]\nevery_steps = 2\nevery_minutes = 2\n[schedule]", &["checkpoint.every_minutes = 2: checkpoint.every_steps is given too"]),
    ("[schedule]", "[checkpoint]\nkeep_last = 0\n[schedule]", &["checkpoint.keep_last = 0, expected a positive integer"]),
    ("[schedule]", "[checkpoint]\nkeep_every_steps = 2\nkeep_every_tokens = 2\n[schedule]", &["checkpoint.keep_every_tokens = 2: checkpoint.keep_every_steps = 2 is given too"]),
    ("[schedule]", "[init]\nload = \"all\"\n[schedule]", &["init.load = \"all\": it needs init.from"]),
    ("[schedule]", "[init]\nfrom = 3\n[schedule]", &["init.from = 3 (integer), expected a string"]),
    ("[schedule]", "[log]\nevery_steps = 0\n[schedule]", &["log.every_steps = 0, expected a positive integer"]),
    ("[schedule]", "[log]\ntrace_steps = \"10\"\n[schedule]", &["log.trace_steps = \"10\", expected \"\" or the first and the last step"]),
    ("[schedule]", "[log]\ntrace_steps = \"0..3\"\n[schedule]", &["log.trace_steps = \"0..3\", expected", "counted from 1"]),
    ("[schedule]", "[log]\ntrace_steps = \"7..3\"\n[schedule]", &["log.trace_steps = \"7..3\", expected"]),
    ("[schedule]", "[log]\ntrace_steps = \"1..=3\"\n[schedule]", &["log.trace_steps = \"1..=3\", expected"]),
    ("[schedule]", "[log]\ntrace_steps = \"1..101\"\n[schedule]", &["log.trace_steps = \"1..101\", expected", "at most 100"]),
    ("[schedule]", "[log]\ntrace_steps = \"2000..2001\"\n[schedule]", &["log.trace_steps = \"2000..2001\": the run ends after step 1000"]),
    ("[schedule]", "[log]\ntrace_steps = 3\n[schedule]", &["log.trace_steps = 3 (integer), expected a string"]),
    ("validation = [{ name = \"fr\", path = \"tok/val_fr\" }]\nskip = [[10, 12], [20, 20]]", "[eval]\nevery_steps = 5", &["eval.every_steps = 5: there is nothing to validate on"]),
    // Not yet.
    ("[schedule]", "[mesh]\ndp_shard = 8\n[schedule]", &["training.global_batch = 8: not a multiple of micro_batch × data-parallel ranks = 2 × 8 = 16"]),
    ("[schedule]", "[[stage]]\nname = \"anneal\"\nfrom_tokens = 5\n[schedule]", &["not yet: stage = [{ name = \"anneal\""]),
    ("steps = 1000", "steps = 1000\nbatch_ramp = { from = 1, over_tokens = 5 }", &["not yet: training.batch_ramp = {"]),
    ("global_batch = 8\nmicro_batch = 2\nsteps = 1000\n", "global_batch = 12\nmicro_batch = 2\nsteps = 1000\n[determinism]\nmesh_invariant = true\n", &["determinism.mesh_invariant = true: training.global_batch / micro_batch = 6 must be a power of two: 4 or 8"]),
    ("[schedule]", "[precision]\nreduce = \"bf16\"\n[determinism]\nmesh_invariant = true\n[schedule]", &["determinism.mesh_invariant = true: precision.reduce = \"bf16\" rounds where ranks meet"]),
    ("lr = 3e-4", "lr = 1\nname = \"muon\"", &["not yet: optimizer.name = \"muon\""]),
];

#[test]
fn bad_files_are_refused_in_one_line_with_file_key_and_value() {
    let mut failures = Vec::new();
    for (from, to, fragments) in BAD_FILES {
        let message = match parse(&edited(from, to), &[]) {
            Ok(_) => "accepted".to_owned(),
            Err(error) => one_line(Err(error)),
        };
        if !message.starts_with("run.toml:") || !fragments.iter().all(|fragment| message.contains(fragment)) {
            failures.push(format!("{to:?}\n  got      {message}\n  expected {fragments:?}"));
        }
    }
    assert!(failures.is_empty(), "{} cases:\n{}", failures.len(), failures.join("\n"));
    assert!(BAD_FILES.len() >= 60);
}

#[test]
fn bad_sets_are_named_as_such() {
    let cases: &[(&str, &[&str])] = &[
        ("training.steps", &["--set \"training.steps\": expected section.key=value"]),
        ("=3", &["expected section.key=value"]),
        ("training..steps=3", &["expected section.key=value"]),
        ("training.stepz=3", &["--set: unknown key training.stepz; did you mean training.steps?"]),
        ("train.steps=3", &["--set: unknown section [train]; did you mean [training]?"]),
        ("training.steps=many", &["--set: training.steps = \"many\" (string), expected a positive integer"]),
        ("run.name=3", &["--set: run.name = 3 (integer), expected a string; hint: --set 'run.name=\"...\"'"]),
        ("run.dir=${NOWHERE}", &["--set: run.dir = \"${NOWHERE}\": environment variable"]),
        ("data.sources.path=x", &["--set data.sources.path: sources is of type array, not a table"]),
        ("training=3", &["--set: training = 3 (integer), expected a table"]),
        ("mesh.tp=3", &["--set: mesh.tp = 3: it does not divide ", "hint: tp 1, 2"]),
        ("optimizer.lr=1\nname='muon'", &["optimizer.lr = "]),
    ];
    for (set, fragments) in cases {
        let message = one_line(parse(BASE, &[set]));
        assert!(fragments.iter().all(|fragment| message.contains(fragment)), "{set}: {message}");
    }
    let both = one_line(parse(BASE, &["training.steps=3", "training.tokens=3"]));
    assert!(both.starts_with("--set: training.tokens = 3: training.steps = 3 is given too"), "{both}");
}

proptest! {
    #[test]
    fn no_set_makes_more_than_one_line(key in "[a-z._\\PC\n]{0,20}", value in "(\\PC|\n){0,20}", known in 0..7_usize) {
        let keys = ["training.steps", "model.layer_types", "data.sources", "run.name", "optimizer.groups", "model.init", &key];
        if let Err(error) = parse(BASE, &[&format!("{}={value}", keys[known])]) {
            prop_assert!(!error.to_string().contains('\n'), "{error:?}");
            prop_assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn no_text_makes_more_than_one_line(text in "(\\PC|\n|[a-z]+ ?= ?[0-9\"]+\n|\\[[a-z]+\\]\n){0,12}") {
        prop_assert!(!one_line(parse(&text, &[])).is_empty());
    }
}
