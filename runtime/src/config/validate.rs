//! Sections to their structs: defaults, cross-checks, and what this version does not do yet. Sections that measure
//! time in steps or tokens are in [`super::lengths`].

use std::path::{Path, PathBuf};

use tisserand_kernels::DType;

use super::lengths::{checkpoint, schedule, training};
use super::raw::{Bound, Section};
use super::*;

/// Steps, tokens and seeds are TOML integers.
pub(super) const MOST: u64 = i64::MAX as u64;

/// Refuses files of another vocabulary, before their keys are called unknown.
pub(super) fn check_version(root: &Section<'_>) -> Result<()> {
    match root.integer("config_version", 1..=MOST)? {
        None | Some(1) => Ok(()),
        Some(_) => Err(root.wrong("config_version", "1, the only version that this build reads")),
    }
}

/// The whole file.
pub(super) fn validate(root: &Section<'_>, ranks: Ranks) -> Result<Config> {
    not_yet(root)?;
    let mesh = mesh::mesh(&root.sub("mesh")?, ranks)?;
    let (training, lengths) = training(&root.sub("training")?, &mesh)?;
    let data = data::data(&root.sub("data")?)?;
    let model = model::model(&root.sub("model")?, data.prepare.as_ref(), training.seq_len)?;
    mesh::check_tp(&root.sub("mesh")?, &mesh, &model, &training)?;
    let tokenizer = tokenizer(&root.sub("tokenizer")?, &data)?;
    let precision = precision(&root.sub("precision")?)?;
    let in_f32 = precision.reduce == DType::F32;
    let mesh_invariant = mesh::mesh_invariant(&root.sub("determinism")?, &mesh, &training, in_f32)?;
    Ok(Config {
        run: run(&root.sub("run")?, &mesh)?,
        tokenizer,
        optimizer: optimizer(&root.sub("optimizer")?)?,
        schedule: schedule(&root.sub("schedule")?, &lengths)?,
        mesh,
        precision,
        recompute: recompute(&root.sub("recompute")?, model.num_layers)?,
        checkpoint: checkpoint(&root.sub("checkpoint")?, &lengths)?,
        init: init(&root.sub("init")?)?,
        eval: eval(&root.sub("eval")?, &data)?,
        log: log(&root.sub("log")?, training.steps)?,
        determinism: Determinism { mesh_invariant },
        model,
        data,
        training,
    })
}

/// Keys of the vocabulary that have no effect yet are refused unless they ask for what happens anyway.
fn not_yet(root: &Section<'_>) -> Result<()> {
    if !root.tables("stage")?.is_empty() {
        return Err(
            root.not_yet("stage", "one set of data.sources for the whole run; hint: remove [[stage]]")
        );
    }
    let training = root.sub("training")?;
    if training.given("batch_ramp") {
        return Err(training.not_yet("batch_ramp", "the batch is training.global_batch from the first step"));
    }
    Ok(())
}

fn run(section: &Section<'_>, mesh: &Mesh) -> Result<Run> {
    let stem = Path::new(section.file()).file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let name = section.string("name")?.map(str::to_owned).or(stem).unwrap_or_default();
    if name.is_empty()
        || name.starts_with('.')
        || name.contains(['/', '\\'])
        || name.chars().any(char::is_control)
    {
        return Err(section.wrong("name", "a name without \"/\" that does not begin with \".\""));
    }
    let device = section
        .choice("device", &[("cpu", DeviceKind::Cpu), ("cuda", DeviceKind::Cuda)])?
        .unwrap_or(DeviceKind::Cpu);
    let dir = section.string("dir")?.map_or_else(|| Path::new("runs").join(&name), PathBuf::from);
    let plan_check =
        section.choice("plan_check", &[("warn", PlanCheck::Warn), ("error", PlanCheck::Error)])?;
    Ok(Run {
        name,
        dir,
        seed: section.integer("seed", 0..=MOST)?.unwrap_or(1234),
        device,
        threads: section.size("threads", 0..=4096)?.unwrap_or(0),
        max_minutes: section.number("max_minutes", Bound::NonNegative)?.filter(|minutes| *minutes > 0.0),
        stop_before_limit_s: section
            .number("stop_before_limit_s", Bound::NonNegative)?
            .filter(|seconds| *seconds > 0.0),
        max_idle_starts: Some(section.integer("max_idle_starts", 0..=MOST)?.unwrap_or(3))
            .filter(|most| *most > 0),
        collective_timeout_s: section.number("collective_timeout_s", Bound::Positive)?.unwrap_or(600.0),
        nccl_library: section.string("nccl_library")?.filter(|file| !file.is_empty()).map(Into::into),
        cuda_graph: cuda_graph(section, device, mesh)?,
        oversubscribe: section.boolean("oversubscribe")?.unwrap_or(false),
        plan_check: plan_check.unwrap_or(PlanCheck::Warn),
        group: section.string("group")?.map(str::to_owned),
    })
}

/// `run.cuda_graph`, where something can be recorded: on a GPU, and no communication, which graphs do not hold.
fn cuda_graph(section: &Section<'_>, device: DeviceKind, mesh: &Mesh) -> Result<bool> {
    const KEY: &str = "cuda_graph";
    if section.boolean(KEY)? != Some(true) {
        return Ok(false);
    }
    if device == DeviceKind::Cpu {
        return Err(section.conflict(KEY, "run.device = \"cpu\" has no graphs; hint: run.device = \"cuda\""));
    }
    let ranks = mesh.dp() * mesh.tp;
    if ranks > 1 {
        let message =
            format!("a graph holds no communication, but the run has {ranks} ranks; hint: one rank");
        return Err(section.conflict(KEY, &message));
    }
    Ok(true)
}

fn tokenizer(section: &Section<'_>, data: &Data) -> Result<Tokenizer> {
    let path = section.string("path")?.map(PathBuf::from);
    if path.is_some() && data.prepare.is_some() {
        return Err(section.conflict("path", "[data.prepare] builds its own tokenizer; keep one of them"));
    }
    Ok(Tokenizer { path })
}

fn optimizer(section: &Section<'_>) -> Result<Optimizer> {
    let is_muon = section.choice("name", &[("adamw", false), ("muon", true)])?;
    if is_muon == Some(true) {
        return Err(section.not_yet("name", "only \"adamw\""));
    }
    let lr = section.number("lr", Bound::Positive)?;
    let mut groups = Vec::new();
    for item in section.tables("groups")? {
        let pattern = item.required_string("match", "a tensor name in which * stands for any characters")?;
        let weight_decay = item.number("weight_decay", Bound::NonNegative)?;
        let lr_scale = item.number("lr_scale", Bound::NonNegative)?;
        if weight_decay.is_none() && lr_scale.is_none() {
            return Err(
                item.conflict("match", "the group changes nothing; hint: give weight_decay or lr_scale")
            );
        }
        groups.push(Group { pattern: pattern.to_owned(), weight_decay, lr_scale });
    }
    let grad_clip = section.number("grad_clip", Bound::NonNegative)?.unwrap_or(1.0);
    Ok(Optimizer {
        lr: lr.ok_or_else(|| section.missing("lr", "a positive number"))?,
        betas: section.pair("betas", Bound::BelowOne)?.unwrap_or([0.9, 0.95]),
        eps: section.number("eps", Bound::Positive)?.unwrap_or(1e-8),
        weight_decay: section.number("weight_decay", Bound::NonNegative)?.unwrap_or(0.1),
        grad_clip: (grad_clip > 0.0).then_some(grad_clip),
        groups,
    })
}

fn precision(section: &Section<'_>) -> Result<Precision> {
    let dtype = |key: &str| section.choice(key, &[("f32", DType::F32), ("bf16", DType::Bf16)]);
    Ok(Precision {
        compute: dtype("compute")?.unwrap_or(DType::F32),
        master: dtype("master")?.unwrap_or(DType::F32),
        moments: dtype("moments")?.unwrap_or(DType::F32),
        reduce: dtype("reduce")?.unwrap_or(DType::F32),
    })
}

fn recompute(section: &Section<'_>, num_layers: usize) -> Result<Recompute> {
    let modes = [
        ("none", RecomputeMode::None),
        ("selective", RecomputeMode::Selective),
        ("full", RecomputeMode::Full),
    ];
    let mode = section.choice("mode", &modes)?.unwrap_or(RecomputeMode::None);
    let expected = format!("an integer from 1 to {num_layers} (model.num_layers) or \"all\"");
    let blocks = match section.value("blocks") {
        None => num_layers,
        Some(toml::Value::String(text)) if text == "all" => num_layers,
        Some(toml::Value::Integer(blocks)) if (1..=num_layers as i64).contains(blocks) => *blocks as usize,
        Some(_) => return Err(section.wrong("blocks", &expected)),
    };
    if mode == RecomputeMode::None && blocks != num_layers {
        return Err(section.conflict("blocks", "it needs recompute.mode = \"selective\" or \"full\""));
    }
    Ok(Recompute { mode, blocks })
}

fn init(section: &Section<'_>) -> Result<InitFrom> {
    let options = [
        ("weights", InitLoad::Weights),
        ("weights+optimizer", InitLoad::WeightsOptimizer),
        ("all", InitLoad::All),
    ];
    let from = section.string("from")?.map(PathBuf::from);
    let load = section.choice("load", &options)?.unwrap_or(InitLoad::Weights);
    if from.is_none() && load != InitLoad::Weights {
        return Err(section.conflict("load", "it needs init.from"));
    }
    Ok(InitFrom { from, load })
}

fn eval(section: &Section<'_>, data: &Data) -> Result<Eval> {
    let every_steps = section.integer("every_steps", 0..=MOST)?;
    let max_tokens = section.integer("max_tokens", 1..=MOST)?;
    if !data.has_validation() {
        let no_data =
            "there is nothing to validate on; hint: give data.validation or data.validation_fraction";
        if every_steps.is_some_and(|steps| steps > 0) {
            return Err(section.conflict("every_steps", no_data));
        }
        if max_tokens.is_some() {
            return Err(section.conflict("max_tokens", no_data));
        }
    }
    let default = if data.has_validation() { 1000 } else { 0 };
    let every_steps = every_steps.unwrap_or(default);
    Ok(Eval {
        every_steps: (every_steps > 0).then_some(every_steps),
        max_tokens: max_tokens.unwrap_or(4_000_000),
    })
}

/// Steps of a trace: what a viewer still shows, and memory for its events.
const MOST_TRACED: u64 = 100;

fn log(section: &Section<'_>, steps: u64) -> Result<Log> {
    Ok(Log {
        every_steps: section.integer("every_steps", 1..=MOST)?.unwrap_or(10),
        tensorboard: section.boolean("tensorboard")?.unwrap_or(true),
        trace_steps: trace_steps(section, steps)?,
    })
}

fn trace_steps(section: &Section<'_>, steps: u64) -> Result<Option<[u64; 2]>> {
    const KEY: &str = "trace_steps";
    let Some(text) = section.string(KEY)? else { return Ok(None) };
    let step = |text: &str| text.parse::<u64>().ok().filter(|step| (1..=MOST).contains(step));
    let range = text.split_once("..").and_then(|(first, last)| Some([step(first)?, step(last)?]));
    match range.filter(|[first, last]| first <= last && last - first < MOST_TRACED) {
        None => Err(section.wrong(
            KEY,
            &format!(
                "\"\" or the first and the last step, counted from 1, as in \"10..12\"; at most {MOST_TRACED}"
            ),
        )),
        Some([first, _]) if first > steps => {
            Err(section.conflict(KEY, &format!("the run ends after step {steps}; hint: trace earlier steps")))
        }
        range => Ok(range),
    }
}
