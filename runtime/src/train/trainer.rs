//! The loop over steps. What a rank does between them: `saves`; how it comes to its end: `ending`.

mod ending;
mod saves;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use tisserand_collectives::{Axis, Channel};
use tisserand_kernels::ops::step_scalars::StepScalars;

use super::Outcome;
use super::agreement::{Agreement, StopCause};
use super::corpus::batch_shape;
use super::limits::Limits;
use super::pace::Pace;
use super::report::{self, Report};
use super::save_time::SaveTime;
use super::saving::{self, Saving};
use super::setup::Run;
use super::tracing::Tracing;
use crate::checkpoint::{self, Crew};
use crate::config::Config;
use crate::data::{Loader, LoaderConfig, StepBatch};
use crate::engine::Part;
use crate::error::{Error, Result};
use crate::log::ResumeRecord;
use crate::plan::storage::Storage;
use crate::run::{HostRow, Trigger, Triggers};

/// What a rank does outside of the actions of a step, for the table after a failure.
#[derive(Clone, Copy)]
enum Doing {
    WaitForData,
    CountTokens,
    Validate,
    Save,
    Agree,
}

impl Doing {
    const NAMES: [&str; 5] = ["wait for data", "count tokens", "validate", "save", "agree"];
}

/// A run under way.
pub struct Trainer {
    run: Run,
    /// Of [`Doing`], made once: a step does not allocate.
    names: [Arc<str>; Doing::NAMES.len()],
    loader: Loader,
    saving: Saving,
    report: Report,
    tracing: Tracing,
    pace: Pace,
    /// On rank 0.
    triggers: Option<Triggers>,
    /// On rank 0: all ranks take the same steps and saves.
    limits: Option<Limits>,
    /// Training stood still for so long when the save under way began.
    stall_s: f64,
}

impl Trainer {
    /// Runs the steps that are left.
    pub fn run(run: Run) -> Result<Outcome> {
        let (step, total) = (run.state.step, run.config.training.steps);
        if step >= total {
            if run.control.rank() == 0 {
                // The job before may have died while it removed older checkpoints.
                checkpoint::prune(&run.folder.checkpoints(), &saving::retention(&run.config))?;
                report::still_finished(&run.folder, &run.logger, &run.state, total)?;
                run.start.ended(0)?;
            }
            return Ok(Outcome::Finished);
        }
        Trainer::new(run)?.steps()
    }

    fn new(run: Run) -> Result<Self> {
        let mut report = open_report(&run)?;
        if run.resumed_from.is_some() {
            report.resumed(ResumeRecord {
                step: run.state.step,
                tokens: run.state.consumed_tokens,
                job_id: run.job.id.clone(),
                world_size: run.control.world_size(),
            });
        }
        let loader = Loader::new(
            Arc::clone(&run.dataset),
            LoaderConfig {
                order: run.order.clone(),
                shape: batch_shape(&run.config),
                leaves: run.engine.sharding().leaves(run.config.grad_accum()),
                prefetch_batches: run.config.data.prefetch_batches,
                first_step: run.state.step,
            },
        )?;
        let crew = Crew::new(Arc::clone(&run.control));
        let bytes = Storage::new(&run.config, run.engine.model())?.checkpoint.bytes;
        let machines = run.hosts.iter().map(HostRow::machine).collect::<BTreeSet<_>>().len();
        let time = SaveTime::expected(report.save_s(), bytes, machines);
        let saving = Saving::new(&run.config, &run.folder, run.tokenizer.clone(), crew, time)?;
        Ok(Trainer {
            names: Doing::NAMES.map(Into::into),
            tracing: Tracing::new(&run),
            pace: Pace::new(run.control.rank(), run.config.log.every_steps),
            triggers: triggers(&run),
            limits: (run.control.rank() == 0).then(|| Limits::new(&run)),
            run,
            loader,
            saving,
            report,
            stall_s: 0.0,
        })
    }

    fn note(&self, doing: Doing) {
        let name = Arc::clone(&self.names[doing as usize]);
        self.run.control.progress().note(|activity| (activity.action, activity.unit) = (Some(name), None));
    }

    fn steps(mut self) -> Result<Outcome> {
        let total = self.run.config.training.steps;
        if let Some(cause) = self.told_to_stop()? {
            return self.stop_at_once(cause);
        }
        self.report.start_clock();
        loop {
            let start = Instant::now();
            self.step()?;
            let step = self.run.state.step;
            self.log(step)?;
            self.validate(step)?;
            let seconds = start.elapsed().as_secs_f64();
            self.limits.iter_mut().for_each(|limits| limits.stepped(seconds));
            self.run.state.elapsed_seconds += seconds;
            self.collect_save(false);
            if step >= total {
                return self.finish();
            }
            let agreed = self.agree()?;
            if let Some(cause) = agreed.stop {
                return self.stop(cause);
            }
            self.save_weights(step)?;
            if agreed.save {
                self.checkpoint()?;
            }
        }
    }

    /// One training step.
    fn step(&mut self) -> Result<()> {
        self.note(Doing::WaitForData);
        let begin = Instant::now();
        let batch: StepBatch = self.loader.next()?;
        self.report.waited_for_data(begin.elapsed());
        self.note(Doing::CountTokens);
        let counting = Instant::now();
        let valid_tokens = self.run.control.sum(Channel::Step, self.distinct_tokens(&batch))?;
        let counted = counting.elapsed();
        let run = &mut self.run;
        let step = run.state.step + 1;
        let inputs = step_inputs(&run.config, step, valid_tokens);
        self.tracing.begin(step);
        run.engine.train(&inputs, &batch.micro_batches)?;
        let is_traced = self.tracing.end(step);
        // What a device has not told yet counts with a later step.
        let waited = self.tracing.take_waited();
        self.report.waited_for_collectives(waited);
        self.pace.step(begin.elapsed(), counted + waited);
        let is_first = run.after_first_step.take().map(|after_first_step| after_first_step()).is_some();
        self.loader.recycle(batch);
        let training = &run.config.training;
        run.state.step = step;
        run.state.consumed_samples = run.order.samples(step - 1).end;
        run.state.consumed_tokens += training.global_batch as u64 * training.seq_len as u64;
        self.report.at(step, run.state.consumed_tokens);
        self.report.progress(step);
        if is_first {
            self.note_start(|start| start.reached(step));
        }
        if is_traced { self.write_trace() } else { Ok(()) }
    }

    /// Writes the trace of the steps so far. Collectives that outlast their step belong to it.
    fn write_trace(&mut self) -> Result<()> {
        self.run.engine.settle()?;
        // The device answers behind all of them.
        self.run.engine.scalars()?;
        let written = self.tracing.write();
        self.report.traced(written);
        Ok(())
    }

    /// Labelled tokens of this rank's part of a step; ranks along `tp` have the same ones, and one counts.
    fn distinct_tokens(&self, batch: &StepBatch) -> u64 {
        let is_first = self.run.engine.sharding().coordinate(Axis::Tp) == 0;
        if is_first { batch.valid_tokens } else { 0 }
    }

    /// Reads what the device says of its steps, at log lines and wherever the host must know it anyway.
    fn read_scalars(&mut self) -> Result<StepScalars> {
        let scalars = self.run.engine.scalars()?;
        let state = &mut self.run.state;
        state.num_updates = u64::from(scalars.num_updates);
        state.skipped_total = u64::from(scalars.skipped_total);
        state.skipped_in_row = u64::from(scalars.skipped_in_row);
        if scalars.failed != 0 {
            return Err(self.diverged(&scalars));
        }
        Ok(scalars)
    }

    fn is_logged(&self, step: u64) -> bool {
        let config = &self.run.config;
        step.is_multiple_of(config.log.every_steps) || step == 1 || step == config.training.steps
    }

    fn log(&mut self, step: u64) -> Result<()> {
        if !self.is_logged(step) {
            return Ok(());
        }
        let config = &self.run.config;
        let (lr, z_loss) = (learning_rate(config, step), config.training.z_loss > 0.0);
        let scalars = self.read_scalars()?;
        // The device has answered, so all waits of these steps have their times.
        self.report.waited_for_collectives(self.tracing.take_waited());
        let memory = self.run.engine.memory();
        let state = &mut self.run.state;
        let scores = &mut state.spike_scores;
        let times = self.pace.take();
        self.report.step(step, state.consumed_tokens, &scalars, lr, z_loss, scores, &memory, times);
        Ok(())
    }

    fn diverged(&self, scalars: &StepScalars) -> Error {
        let culprit = match self.first_parameter_not_finite() {
            Ok(Some(name)) => format!("gradient of {name}"),
            Ok(None) => format!("loss = {}", scalars.loss),
            Err(error) => return error,
        };
        Error::fault(format!(
            "{} steps in a row from step {} on were not finite (first tensor: {culprit}), \
             training.max_skipped_steps = {}; hint: continue from the last checkpoint with a lower \
             optimizer.lr or data.skip = [[{}, {}]]",
            scalars.skipped_in_row,
            scalars.first_skipped_step,
            self.run.config.training.max_skipped_steps,
            scalars.first_skipped_step,
            scalars.step,
        ))
    }

    /// The first parameter, in the order of the layout, whose gradient is not finite on some rank.
    fn first_parameter_not_finite(&self) -> Result<Option<&str>> {
        let engine = self.run.engine.as_ref();
        let names: Vec<&str> = engine
            .model()
            .units
            .iter()
            .flat_map(|unit| unit.params())
            .map(|param| param.name.as_str())
            .collect();
        let is_culprit = |name: &&str| {
            engine
                .read(name, Part::Gradient)
                .is_ok_and(|values| values.iter().any(|value| !value.is_finite()))
        };
        let mine = names.iter().position(is_culprit).unwrap_or(names.len());
        let before_last = self.run.control.max(Channel::Step, (names.len() - mine) as u64)?;
        Ok(names.get(names.len() - before_last as usize).copied())
    }

    fn validate(&mut self, step: u64) -> Result<()> {
        let every = self.run.config.eval.every_steps;
        if every.is_some_and(|every| step.is_multiple_of(every)) || step == self.run.config.training.steps {
            self.note(Doing::Validate);
            for set in &mut self.run.validation {
                let start = Instant::now();
                let engine = self.run.engine.as_mut();
                let (sharding, control) = (engine.sharding(), self.run.control.as_ref());
                let mut losses = |micro_batch: &_| engine.losses(micro_batch);
                if let Some(record) = set.evaluate(step, &sharding, control, &mut losses)? {
                    self.report.evaluated(record, start.elapsed().as_secs_f64());
                }
            }
        }
        Ok(())
    }

    /// All ranks agree: whether one of them was told to stop, whether time is up and whether a checkpoint is due,
    /// for both of which the lead's clock counts.
    fn agree(&mut self) -> Result<Agreement> {
        self.note(Doing::Agree);
        let asked = self.look_for_triggers();
        let is_lead = self.run.control.rank() == 0;
        let is_due = is_lead && self.saving.is_due(self.run.state.step);
        let file = (asked == Some(Trigger::Stop)).then_some(StopCause::File);
        let signal = self.run.stop.requested().map(StopCause::Signal);
        let stop = file.or(signal).or(self.near_a_limit());
        let own = Agreement { stop, save: is_due || asked == Some(Trigger::Save), slowest: self.pace.own() };
        let agreed = own.reach(self.run.control.as_ref())?;
        self.pace.agreed(agreed.slowest, self.is_logged(self.run.state.step));
        Ok(agreed)
    }

    /// The time limit that is near. On rank 0.
    fn near_a_limit(&mut self) -> Option<StopCause> {
        let limits = self.limits.as_mut()?;
        limits.tell(self.saving.time(), &self.report.logger);
        limits.near(self.saving.time())
    }

    /// What somebody asks for by a file in the run folder. On rank 0.
    fn look_for_triggers(&mut self) -> Option<Trigger> {
        let (trigger, warning) = self.triggers.as_mut()?.look();
        let logger = &self.report.logger;
        if let Some(trigger) = trigger {
            logger.line(&format!("the file {} asks for a checkpoint", trigger.file_name()));
        }
        warning.iter().for_each(|warning| logger.warn(warning));
        trigger
    }
}

fn open_report(run: &Run) -> Result<Report> {
    let state = &run.state;
    Report::new(
        &run.config,
        &run.folder,
        Arc::clone(&run.logger),
        &run.plan,
        state.step,
        state.consumed_tokens,
        run.control.rank() == 0,
        &run.hosts,
    )
}

/// Rank 0 alone looks for trigger files.
fn triggers(run: &Run) -> Option<Triggers> {
    let mut notices = Vec::new();
    let triggers = (run.control.rank() == 0).then(|| Triggers::new(run.folder.dir(), &mut notices));
    notices.iter().for_each(|notice| run.logger.warn(notice));
    triggers
}

fn learning_rate(config: &Config, step: u64) -> f64 {
    config.schedule.lr(config.optimizer.lr, step, config.training.steps)
}

/// The words of a step that the host decides.
pub(super) fn step_inputs(config: &Config, step: u64, valid_tokens: u64) -> StepScalars {
    StepScalars {
        lr: learning_rate(config, step) as f32,
        // A batch of ignored labels alone has no loss and no gradient.
        loss_scale: 1.0 / valid_tokens.max(1) as f32,
        max_grad_norm: config.optimizer.grad_clip.map_or(f32::INFINITY, |norm| norm as f32),
        beta1: config.optimizer.betas[0] as f32,
        beta2: config.optimizer.betas[1] as f32,
        step: step as u32,
        seed_low: config.run.seed as u32,
        seed_high: (config.run.seed >> 32) as u32,
        max_skipped: config.training.max_skipped_steps,
        ..StepScalars::default()
    }
}
