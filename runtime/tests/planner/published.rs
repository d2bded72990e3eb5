//! Published runs, and what the planner says of them. A row has what its source says of the run, and
//! where the source says nothing, what `docs/planner.md` says is assumed; no row has a factor of its own.

use tisserand_collectives::Workspace;
use tisserand_runtime::config::Config;
use tisserand_runtime::model::Transformer;
use tisserand_runtime::plan;
use tisserand_runtime::plan::estimate::Estimate;
use tisserand_runtime::plan::machine::{CUDA_CAPS, Machine};
use tisserand_runtime::plan::timeline::Timeline;
use tisserand_runtime::train::setup::{sharding, step_config};

/// How a run was reported.
enum Speed {
    /// Tokens per second of each GPU.
    TokensPerS(f64),
    /// Model FLOP/s of each GPU over its peak, attention causal, in percent.
    Mfu(f64),
}

struct Published {
    source: &'static str,
    model: &'static str,
    setting: &'static str,
    profile: &'static str,
    ranks: usize,
    seq_len: usize,
    global_batch: usize,
    micro_batch: usize,
    tp: usize,
    recompute: &'static str,
    speed: Speed,
    peak_gib: Option<f64>,
    /// What the program cannot do of it, whatever the mesh.
    missing: Option<&'static str>,
}

const IDRIS: Published = Published {
    source: "IDRIS",
    model: "",
    setting: "",
    profile: "jeanzay-h100",
    ranks: 64,
    seq_len: 4096,
    global_batch: 128,
    micro_batch: 2,
    tp: 1,
    recompute: "mode = \"none\"",
    speed: Speed::TokensPerS(0.0),
    peak_gib: None,
    missing: None,
};
const NEMO: Published = Published { micro_batch: 1, recompute: FULL, ..IDRIS };
const TITAN: Published = Published {
    source: "torchtitan",
    profile: "h100-sxm",
    seq_len: 8192,
    recompute: "mode = \"selective\"",
    ..IDRIS
};
const MEGATRON: Published = Published {
    source: "Megatron",
    missing: Some("the model's dimensions: not in the published table"),
    ..TITAN
};
const FULL: &str = "mode = \"full\"";
const PP: Option<&str> = Some("pp; the model's dimensions");

/// One row; for the many that differ in few things.
#[rustfmt::skip]
fn rows() -> Vec<Published> {
    use Speed::{Mfu, TokensPerS};
    vec![
        Published { model: "qwen2.5-14b", setting: "FSDP2, compile, full AC of 1/2", recompute: "mode = \"full\"\nblocks = 24", speed: TokensPerS(4101.0), peak_gib: Some(50.5), ..IDRIS },
        Published { model: "qwen2.5-14b", setting: "FSDP2, eager, full AC of 1/2", recompute: "mode = \"full\"\nblocks = 24", speed: TokensPerS(3410.0), peak_gib: Some(63.2), ..IDRIS },
        Published { model: "qwen2.5-32b", setting: "FSDP2, compile, full AC of 3/4", recompute: "mode = \"full\"\nblocks = 48", speed: TokensPerS(1966.0), peak_gib: Some(54.5), ..IDRIS },
        Published { model: "qwen2.5-72b", setting: "FSDP2, compile, full AC", recompute: FULL, speed: TokensPerS(840.0), peak_gib: Some(42.5), ..IDRIS },
        Published { model: "qwen2.5-14b", setting: "NeMo, TP4 × FSDP16, full AC", tp: 4, speed: TokensPerS(1769.0), peak_gib: Some(25.0), ..NEMO },
        Published { model: "qwen2.5-32b", setting: "NeMo, TP4 × FSDP16, full AC", tp: 4, speed: TokensPerS(1119.0), peak_gib: Some(34.0), ..NEMO },
        Published { model: "qwen2.5-72b", setting: "NeMo, TP4 × FSDP16, full AC", tp: 4, speed: TokensPerS(493.0), peak_gib: Some(67.0), ..NEMO },
        Published { model: "qwen2.5-14b", setting: "FSDP2, compile, full AC of 3/4", ranks: 4, global_batch: 8, recompute: "mode = \"full\"\nblocks = 36", speed: TokensPerS(3559.0), peak_gib: Some(73.5), ..IDRIS },
        Published { model: "qwen2.5-14b", setting: "FSDP2, compile, no AC", profile: "gb200", speed: TokensPerS(9061.0), peak_gib: Some(82.0), ..IDRIS },
        Published { model: "qwen2.5-32b", setting: "FSDP2, compile, no AC", profile: "gb200", speed: TokensPerS(4554.0), peak_gib: Some(148.0), ..IDRIS },
        Published { model: "qwen2.5-72b", setting: "FSDP2, compile, full AC of 1/2", profile: "gb200", recompute: "mode = \"full\"\nblocks = 40", speed: TokensPerS(1871.0), peak_gib: Some(137.0), ..IDRIS },
        Published { model: "qwen2.5-14b", setting: "FSDP2, compile, AC not stated", profile: "jeanzay-a100", recompute: FULL, speed: TokensPerS(220.0), peak_gib: Some(49.0), ..IDRIS },
        Published { model: "qwen2.5-32b", setting: "FSDP2, compile, AC not stated", profile: "jeanzay-a100", recompute: FULL, speed: TokensPerS(99.0), peak_gib: Some(54.0), ..IDRIS },
        Published { model: "qwen2.5-72b", setting: "FSDP2, compile, AC not stated", profile: "jeanzay-a100", recompute: FULL, speed: TokensPerS(44.0), peak_gib: Some(46.0), ..IDRIS },
        Published { model: "qwen2.5-14b", setting: "NeMo, TP8 × FSDP8", profile: "jeanzay-a100", tp: 8, speed: TokensPerS(474.0), ..NEMO },
        Published { model: "qwen2.5-32b", setting: "NeMo, TP8 × FSDP8", profile: "jeanzay-a100", tp: 8, speed: TokensPerS(257.0), ..NEMO },
        Published { model: "qwen2.5-72b", setting: "NeMo, TP4 × FSDP16", profile: "jeanzay-a100", tp: 4, speed: TokensPerS(71.0), ..NEMO },
        Published { model: "llama3-8b", setting: "FSDP, eager, selective AC", ranks: 8, global_batch: 16, speed: TokensPerS(5762.0), peak_gib: Some(82.4), ..TITAN },
        Published { model: "llama3-8b", setting: "FSDP, compile, selective AC", ranks: 8, global_batch: 16, speed: TokensPerS(6667.0), peak_gib: Some(77.0), ..TITAN },
        Published { model: "llama3-8b", setting: "FSDP, compile, float8", ranks: 8, global_batch: 16, speed: TokensPerS(8532.0), peak_gib: Some(76.8), missing: Some("float8"), ..TITAN },
        Published { model: "llama3-8b", setting: "FSDP, eager, selective AC", ranks: 128, global_batch: 256, speed: TokensPerS(5605.0), peak_gib: Some(67.0), ..TITAN },
        Published { model: "llama3-8b", setting: "FSDP, compile, selective AC", ranks: 128, global_batch: 256, speed: TokensPerS(6514.0), peak_gib: Some(62.0), ..TITAN },
        Published { model: "llama3-8b", setting: "FSDP, compile, float8", ranks: 128, global_batch: 256, speed: TokensPerS(8380.0), peak_gib: Some(61.8), missing: Some("float8"), ..TITAN },
        Published { model: "llama3-8b", setting: "CP, 32k tokens", ranks: 8, seq_len: 32_768, speed: TokensPerS(3890.0), missing: Some("cp"), ..TITAN },
        Published { model: "llama3-70b", setting: "FSDP32 × TP8, full AC, compile, float8", ranks: 256, tp: 8, speed: TokensPerS(829.0), missing: Some("float8"), ..TITAN },
        Published { model: "llama3-70b", setting: "FSDP32 × TP8, compile, bf16 (2025-06)", ranks: 256, global_batch: 512, micro_batch: 16, tp: 8, recompute: FULL, speed: TokensPerS(597.0), ..TITAN },
        Published { model: "llama3-8b", setting: "FSDP8 × TP8, compile, bf16 (2025-06)", ranks: 64, global_batch: 16, tp: 8, speed: TokensPerS(4378.0), ..TITAN },
        Published { model: "llama3-405b", setting: "FSDP8 × TP8 × PP8, float8", ranks: 512, tp: 8, speed: TokensPerS(100.0), missing: Some("pp, float8"), ..TITAN },
        Published { model: "llama3-8b", setting: "Trainy, float8, 4 nodes", profile: "h200", ranks: 32, speed: TokensPerS(10_938.0), missing: Some("float8"), ..TITAN },
        Published { model: "llama3-8b", setting: "bf16, batch 1", profile: "gb200", ranks: 8, global_batch: 8, micro_batch: 1, speed: TokensPerS(8308.0), missing: Some("a profile of B200"), ..TITAN },
        Published { model: "1.7B", setting: "TP1", ranks: 48, speed: Mfu(41.0), ..MEGATRON },
        Published { model: "7.1B", setting: "TP2", ranks: 96, tp: 2, speed: Mfu(47.0), ..MEGATRON },
        Published { model: "16B", setting: "TP4", ranks: 192, tp: 4, speed: Mfu(49.0), ..MEGATRON },
        Published { model: "32B", setting: "TP8", ranks: 384, tp: 8, speed: Mfu(46.0), ..MEGATRON },
        Published { model: "70B", setting: "TP8 × PP2", ranks: 768, tp: 8, speed: Mfu(42.0), missing: PP, ..MEGATRON },
        Published { model: "177B", setting: "TP8 × PP6", ranks: 2304, tp: 8, speed: Mfu(44.0), missing: PP, ..MEGATRON },
        Published { model: "314B", setting: "TP8 × PP8", ranks: 3072, tp: 8, speed: Mfu(48.0), missing: PP, ..MEGATRON },
        Published { model: "462B", setting: "TP8 × PP16", ranks: 6144, tp: 8, speed: Mfu(47.0), missing: PP, ..MEGATRON },
    ]
}

/// `[model]` of a name.
fn model(name: &str) -> String {
    let qwen = |hidden: usize, intermediate: usize, layers: usize, heads: usize| {
        format!(
            "architecture = \"qwen2\"\nvocab_size = 152064\nhidden_size = {hidden}\n\
             intermediate_size = {intermediate}\nnum_layers = {layers}\nnum_heads = {heads}\nnum_kv_heads = 8\n\
             head_dim = 128\nrope_theta = 1e6\n"
        )
    };
    match name {
        "qwen2.5-14b" => qwen(5120, 13_824, 48, 40),
        "qwen2.5-32b" => qwen(5120, 27_648, 64, 40),
        "qwen2.5-72b" => qwen(8192, 29_568, 80, 64),
        preset => format!("preset = \"{preset}\"\nmax_position_embeddings = 131072\n"),
    }
}

impl Published {
    fn run_file(&self) -> String {
        let Published { seq_len, global_batch, micro_batch, tp, recompute, .. } = self;
        format!(
            "[run]\ndevice = \"cuda\"\n[model]\n{}[data]\nsources = [{{ path = \"x\" }}]\n\
             [training]\nseq_len = {seq_len}\nglobal_batch = {global_batch}\nmicro_batch = {micro_batch}\nsteps = 100\n\
             [optimizer]\nlr = 1e-4\n[mesh]\ndp_shard = \"auto\"\ntp = {tp}\nzero = 3\n[precision]\ncompute = \"bf16\"\n\
             [recompute]\n{recompute}\n",
            model(self.model)
        )
    }

    /// Whether `sustained` of the calibration was fitted to this row, among others.
    fn is_fitted(&self) -> bool {
        self.profile.contains("h100") && self.setting.contains("compile") && self.tp == 1
    }

    fn head(&self) -> String {
        let Published { source, profile, model, ranks, setting, .. } = self;
        let published = match self.speed {
            Speed::TokensPerS(speed) => format!("{speed:.0}"),
            Speed::Mfu(percent) => format!("{percent:.0} % MFU"),
        };
        format!("| {source} | {profile} | {model} | {ranks} | {setting} | {published} |")
    }

    /// The prediction, or what is missing for one.
    fn predict(&self) -> Result<Prediction, &'static str> {
        if let Some(missing) = self.missing {
            return Err(missing);
        }
        let config = match Config::parse(&self.run_file(), "run.toml", &[], Some(self.ranks), &|_| None) {
            Ok(config) => config,
            Err(error) => panic!("{} {error}", self.head()),
        };
        let machine = Machine::load(self.profile).unwrap();
        let mut alone = machine.clone();
        alone.calibration.sustained = 1.0;
        let model = Transformer::sharded(config.model.clone(), sharding(&config, 0).tp());
        let step = step_config(&config, &model, 0);
        let plan = plan::train(CUDA_CAPS, &model, &step, config.training.seq_len, Workspace::None).unwrap();
        let timeline = Timeline::record(CUDA_CAPS, &model, &step).unwrap();
        let estimate = |machine| Estimate::new(machine, &timeline, &plan.model_flops);
        let error = |estimate: &Estimate| match self.speed {
            Speed::TokensPerS(speed) => estimate.tokens_per_s_per_gpu / speed - 1.0,
            Speed::Mfu(percent) => 100.0 * estimate.mfu.causal / percent - 1.0,
        };
        let (estimate, undisturbed) = (estimate(&machine), estimate(&alone));
        Ok(Prediction {
            error: error(&estimate),
            error_alone: error(&undisturbed),
            needed_bytes: plan.arena_bytes as u64 + machine.outside_bytes(&timeline.mesh),
            estimate,
        })
    }
}

struct Prediction {
    estimate: Estimate,
    error: f64,
    /// With kernels as fast as they are alone.
    error_alone: f64,
    needed_bytes: u64,
}

fn percent(error: f64) -> String {
    format!("{:+.0} %", 100.0 * error)
}

/// The table of `docs/planner.md`.
pub(crate) fn table() -> String {
    let mut text = "| source | profile | model | GPUs | setting | published tok/s/GPU | predicted | error | error, kernels alone | MFU | published GiB | predicted | bound by |\n\
                    |---|---|---|---|---|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    let (mut fitted, mut others) = (Vec::new(), Vec::new());
    for row in rows() {
        let gib = row.peak_gib.map_or_else(|| "-".to_owned(), |gib| format!("{gib:.1}"));
        let head = row.head();
        let prediction = match row.predict() {
            Ok(prediction) => prediction,
            Err(missing) => {
                text += &format!("{head} - | - | - | - | {gib} | - | missing: {missing} |\n");
                continue;
            }
        };
        let Prediction { estimate, error, error_alone, needed_bytes } = prediction;
        text += &format!(
            "{head} {:.0} | {}{} | {} | {:.1} % | {gib} | {:.1} | {} |\n",
            estimate.tokens_per_s_per_gpu,
            percent(error),
            if row.is_fitted() { " *" } else { "" },
            percent(error_alone),
            100.0 * estimate.mfu.full,
            needed_bytes as f64 / f64::from(1 << 30),
            estimate.bound.name(),
        );
        if row.is_fitted() { &mut fitted } else { &mut others }.push((error, error_alone));
    }
    text + "\n"
        + &summary("rows with *, which `sustained` was fitted to", &fitted)
        + &summary("others", &others)
}

fn summary(name: &str, errors: &[(f64, f64)]) -> String {
    let spread = |mut errors: Vec<f64>| {
        errors.sort_by(f64::total_cmp);
        let last = errors.len() - 1;
        format!("{} to {}, median {}", percent(errors[0]), percent(errors[last]), percent(errors[last / 2]))
    };
    let (with, alone) = errors.iter().copied().unzip();
    format!("- {} {name}: {};\n  kernels alone: {}.\n", errors.len(), spread(with), spread(alone))
}

/// Puts the table between the marks of the page.
pub(crate) fn insert(page: &str) -> String {
    let (before, rest) = page.split_once(BEGIN).expect("the page has a mark where the table begins");
    let (_, after) = rest.split_once(END).expect("the page has a mark where the table ends");
    format!("{before}{BEGIN}\n{}{END}{after}", table())
}

const BEGIN: &str = "<!-- table: cargo run -p tisserand-runtime --example published_runs -->";
const END: &str = "<!-- end of table -->";
