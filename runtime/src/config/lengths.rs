//! Sections whose lengths are given in steps or in tokens: `[training]`, `[schedule]`, `[checkpoint]`.

use super::model_check::limit;
use super::raw::{Bound, Section};
use super::validate::MOST;
use super::*;

/// `[training]`, and the lengths that follow.
pub(super) fn training(section: &Section<'_>, mesh: &Mesh) -> Result<(Training, Lengths)> {
    let required = |key: &str, least: usize| {
        let value = section.size(key, least..=limit::POSITIONS)?;
        value.ok_or_else(|| section.missing(key, "a positive integer"))
    };
    let seq_len = required("seq_len", 2)?;
    let global_batch = required("global_batch", 1)?;
    let micro_batch = section.size("micro_batch", 1..=limit::POSITIONS)?.unwrap_or(1);
    let leaf = micro_batch * mesh.dp();
    if !global_batch.is_multiple_of(leaf) {
        let message = format!(
            "not a multiple of micro_batch × data-parallel ranks = {micro_batch} × {} = {leaf}; hint: \
             training.global_batch = {}, a smaller training.micro_batch, or fewer ranks",
            mesh.dp(),
            global_batch.next_multiple_of(leaf)
        );
        return Err(section.conflict("global_batch", &message));
    }
    if micro_batch * seq_len > limit::POSITIONS {
        let message = format!("micro_batch × seq_len = {} exceeds 2147483647 tokens", micro_batch * seq_len);
        return Err(section.conflict("micro_batch", &message));
    }
    let tokens_per_step = global_batch as u64 * seq_len as u64;
    let steps = length(section, ["steps", "tokens"], 1, tokens_per_step)?;
    let steps = steps.ok_or_else(|| section.missing("steps", "a positive integer, or training.tokens"))?;
    if steps.checked_mul(tokens_per_step).is_none_or(|tokens| tokens > MOST) {
        let message = format!("{steps} steps of {tokens_per_step} tokens are more than 2^63");
        return Err(section.conflict("steps", &message));
    }
    let max_skipped_steps = section.integer("max_skipped_steps", 0..=u64::from(u32::MAX))?;
    let z_loss = section.number("z_loss", Bound::NonNegative)?.unwrap_or(0.0);
    let max_skipped_steps = max_skipped_steps.map_or(3, |steps| steps as u32);
    let training = Training { seq_len, global_batch, micro_batch, steps, z_loss, max_skipped_steps };
    Ok((training, Lengths { steps, tokens_per_step }))
}

/// `[schedule]`.
pub(super) fn schedule(section: &Section<'_>, lengths: &Lengths) -> Result<Schedule> {
    use ScheduleKind::*;
    let steps = lengths.steps;
    let kinds = [("constant", Constant), ("linear", Linear), ("cosine", Cosine), ("wsd", Wsd)];
    let kind = section.choice("name", &kinds)?.unwrap_or(Cosine);
    let warmup = length(section, ["warmup_steps", "warmup_tokens"], 0, lengths.tokens_per_step)?;
    let warmup_steps = warmup.unwrap_or((steps / 20).min(2000));
    let decay = length(section, ["decay_steps", "decay_tokens"], 0, lengths.tokens_per_step)?;
    let shapes = [
        ("linear", DecayShape::Linear),
        ("cosine", DecayShape::Cosine),
        ("1-sqrt", DecayShape::OneMinusSqrt),
    ];
    let shape = section.choice("decay_shape", &shapes)?;
    let min_lr_ratio = section.number("min_lr_ratio", Bound::Fraction)?.unwrap_or(0.0);
    if kind != Wsd
        && let Some(key) =
            ["decay_steps", "decay_tokens", "decay_shape"].into_iter().find(|key| section.given(key))
    {
        return Err(section.conflict(key, "only schedule.name = \"wsd\" has a decay of its own"));
    }
    if kind == Constant && min_lr_ratio > 0.0 {
        return Err(section.conflict("min_lr_ratio", "schedule.name = \"constant\" does not decay"));
    }
    let decay_steps = match (kind, decay) {
        (Wsd, Some(0)) => {
            let key = if section.given("decay_steps") { "decay_steps" } else { "decay_tokens" };
            return Err(
                section.wrong(key, "a positive integer; hint: schedule.name = \"constant\" has no decay")
            );
        }
        (Wsd, decay) => decay.unwrap_or((steps / 5).max(1)),
        _ => 0,
    };
    if warmup_steps.saturating_add(decay_steps) > steps {
        let keys = ["warmup_steps", "warmup_tokens", "decay_steps", "decay_tokens"];
        let key = keys.into_iter().find(|key| section.given(key)).unwrap_or("name");
        let message = format!(
            "warm-up of {warmup_steps} and decay of {decay_steps} steps exceed the run's {steps} steps"
        );
        return Err(section.conflict(key, &message));
    }
    let decay_shape = shape.unwrap_or(DecayShape::OneMinusSqrt);
    Ok(Schedule { kind, warmup_steps, decay_steps, decay_shape, min_lr_ratio })
}

/// `[checkpoint]`.
pub(super) fn checkpoint(section: &Section<'_>, lengths: &Lengths) -> Result<Checkpoint> {
    let minutes = section.number("every_minutes", Bound::NonNegative)?;
    let every_steps = section.integer("every_steps", 0..=MOST)?.filter(|steps| *steps > 0);
    if minutes.is_some_and(|minutes| minutes > 0.0) && every_steps.is_some() {
        return Err(
            section.conflict("every_minutes", "checkpoint.every_steps is given too; keep one of them")
        );
    }
    let minutes = minutes.or(every_steps.is_none().then_some(30.0));
    let cadence = |keys: [&str; 2]| -> Result<Option<u64>> {
        let steps = length(section, keys, 0, lengths.tokens_per_step)?;
        Ok(steps.filter(|steps| *steps > 0))
    };
    Ok(Checkpoint {
        every_minutes: minutes.filter(|minutes| *minutes > 0.0),
        every_steps,
        keep_last: section.size("keep_last", 1..=1_000_000)?.unwrap_or(2),
        keep_every_steps: cadence(["keep_every_steps", "keep_every_tokens"])?,
        weights_every_steps: cadence(["weights_every_steps", "weights_every_tokens"])?,
    })
}

/// The run's lengths, from which others follow.
pub(super) struct Lengths {
    steps: u64,
    tokens_per_step: u64,
}

/// A length given in steps or, rounded up to whole steps, in tokens; not both, unless one is 0.
fn length(
    section: &Section<'_>,
    [steps_key, tokens_key]: [&str; 2],
    least: u64,
    tokens_per_step: u64,
) -> Result<Option<u64>> {
    let steps = section.integer(steps_key, least..=MOST)?;
    let tokens = section.integer(tokens_key, least..=MOST)?;
    match (steps, tokens) {
        (Some(1..), Some(1..)) => {
            let message = format!("{} is given too; keep one of them", section.shown(steps_key));
            Err(section.conflict(tokens_key, &message))
        }
        (Some(steps), None | Some(0)) => Ok(Some(steps)),
        (_, Some(tokens)) => Ok(Some(tokens.div_ceil(tokens_per_step))),
        (None, None) => Ok(None),
    }
}
