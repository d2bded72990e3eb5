//! What a run tells while it runs: log lines, metrics.jsonl, TensorBoard, status.json.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::checkpoint::{Saved, TrainerState};
use crate::config::Config;
use crate::engine::Memory;
use crate::error::{Error, Result};
use crate::log::{
    CheckpointRecord, EvalRecord, Logger, MetricsLog, Record, ResumeRecord, SlowestRank, SpikeScore,
    StepRecord, TensorBoard, ThroughputMeter, units,
};
use crate::plan::Plan;
use crate::run::{HostRow, RunFolder, State, Status, StatusFile};
use crate::train::pace::StepTimes;
use crate::train::tracing::Written;
use tisserand_kernels::ops::step_scalars::StepScalars;

/// The convention of the FLOPs in the log line, see [`crate::plan::ModelFlops`].
const FLOPS_CONVENTION: &str = "6N+12Lhs";

/// All outputs of a run. Only rank 0 has files; the others' logger shows nothing but warnings.
pub struct Report {
    pub(super) logger: Arc<Logger>,
    metrics: Option<MetricsLog>,
    tensorboard: Option<TensorBoard>,
    status_file: Option<StatusFile>,
    run_dir: PathBuf,
    status: Status,
    meter: ThroughputMeter,
    flops_per_token: f64,
    memory_planned_bytes: u64,
    tokens_per_step: u64,
    data_wait: Duration,
    /// The machine of each rank. On rank 0.
    hosts: Vec<String>,
    /// Time that steps waited for other ranks; `None` where there are none.
    exposed_communication: Option<Duration>,
}

impl Report {
    /// Opens the outputs for a run that goes on after `step`: those of rank 0, the lead, which knows where all ranks are.
    /// The others have none.
    pub fn new(
        config: &Config,
        folder: &RunFolder,
        logger: Arc<Logger>,
        plan: &Plan,
        step: u64,
        tokens: u64,
        is_lead: bool,
        hosts: &[HostRow],
    ) -> Result<Self> {
        let metrics = match is_lead {
            true => Some(MetricsLog::open(&folder.metrics(), folder.access(), step)?),
            false => None,
        };
        if let Some(notice) = metrics.as_ref().and_then(|metrics| metrics.repair().notice()) {
            logger.line(&notice);
        }
        let tensorboard = match is_lead && config.log.tensorboard {
            true => Some(TensorBoard::create(&folder.tensorboard(), folder.access(), step)?),
            false => None,
        };
        let save_s = if is_lead { earlier_save_s(folder) } else { None };
        let status =
            Status { step, consumed_tokens: tokens, save_s, ..Status::starting(config.training.steps) };
        let report = Report {
            logger,
            metrics,
            tensorboard,
            status_file: is_lead.then(|| folder.status()),
            run_dir: folder.dir().to_owned(),
            status,
            meter: ThroughputMeter::new(Instant::now(), step, tokens),
            flops_per_token: plan.model_flops.full,
            memory_planned_bytes: plan.arena_bytes as u64,
            tokens_per_step: config.tokens_per_step(),
            data_wait: Duration::ZERO,
            hosts: hosts.iter().map(|row| row.machine().to_owned()).collect(),
            exposed_communication: (config.mesh.dp() * config.mesh.tp > 1).then_some(Duration::ZERO),
        };
        if let Some(file) = &report.status_file {
            file.write(&report.status)?;
        }
        Ok(report)
    }

    /// What a run tells must not end it: a full disk while a checkpoint is being written, say, is over when
    /// the checkpoint has failed and its files are gone.
    pub(super) fn tolerate(&self, result: Result<()>) {
        if let Err(error) = result {
            self.logger.warn(&format!("{error}; the run goes on"));
        }
    }

    fn write_status(&self) {
        if let Some(file) = &self.status_file {
            self.tolerate(file.write(&self.status));
        }
    }

    fn append(&mut self, record: &Record) {
        let appended = self.metrics.as_mut().map_or(Ok(()), |metrics| metrics.append(record));
        self.tolerate(appended);
    }

    /// Notes that the run continues from a checkpoint.
    pub fn resumed(&mut self, record: ResumeRecord) {
        self.logger.line(&format!(
            "continues after step {} ({} tokens)",
            record.step,
            units::count(record.tokens)
        ));
        self.append(&Record::Resume(record));
    }

    /// Seconds of the slowest save that status.json knows of.
    pub fn save_s(&self) -> Option<f64> {
        self.status.save_s
    }

    /// Starts the clock of the first step.
    pub fn start_clock(&mut self) {
        self.meter = ThroughputMeter::new(Instant::now(), self.status.step, self.status.consumed_tokens);
    }

    /// Time that a step waited for its data.
    pub fn waited_for_data(&mut self, time: Duration) {
        self.data_wait += time;
    }

    /// Time that steps waited for their collectives.
    pub fn waited_for_collectives(&mut self, time: Duration) {
        if let Some(sum) = &mut self.exposed_communication {
            *sum += time;
        }
    }

    /// Shows where the run is, on a terminal only.
    pub fn progress(&self, step: u64) {
        let loss = self.status.loss.map_or_else(String::new, |loss| format!("loss {loss:.4}"));
        self.logger.progress(step, self.status.total_steps, &loss);
    }

    /// The line of a logged step.
    pub fn step(
        &mut self,
        step: u64,
        tokens: u64,
        scalars: &StepScalars,
        lr: f64,
        z_loss: bool,
        scores: &mut [SpikeScore; 2],
        memory: &Memory,
        times: StepTimes,
    ) {
        let interval = self.meter.lap(Instant::now(), step, tokens);
        let steps_left = self.status.total_steps - step;
        let eta_s = self.meter.eta_s(steps_left * self.tokens_per_step);
        let tokens_per_s = interval.tokens_per_s();
        let interval_s = interval.step_s() * interval.steps as f64;
        let exposed = self.exposed_communication.as_mut().map(std::mem::take);
        let record = StepRecord {
            step,
            total_steps: self.status.total_steps,
            tokens,
            loss: scalars.loss,
            z_loss: z_loss.then_some(scalars.z_loss),
            loss_z: scores[0].score(f64::from(scalars.loss)),
            grad_norm: scalars.grad_norm,
            grad_norm_z: scores[1].score(f64::from(scalars.grad_norm)),
            lr,
            step_s: interval.step_s(),
            step_p50_s: Some(times.p50_s),
            step_p99_s: Some(times.p99_s),
            slowest: self.slowest(times.slowest),
            data_wait_s: std::mem::take(&mut self.data_wait).as_secs_f64() / interval.steps.max(1) as f64,
            exposed_communication: exposed.map(|waited| waited.as_secs_f64() / interval_s),
            tokens_per_s,
            flops_per_token: self.flops_per_token,
            flops_convention: FLOPS_CONVENTION.to_owned(),
            gflop_per_s: tokens_per_s * self.flops_per_token / 1e9,
            mfu: None,
            memory_used_bytes: memory.high_water_bytes as u64,
            memory_planned_bytes: self.memory_planned_bytes,
            skipped: u64::from(scalars.skipped_total),
            eta_s,
        };
        self.logger.line(&record.line());
        let written = self.tensorboard.as_mut().map_or(Ok(()), |tensorboard| tensorboard.step(&record));
        self.tolerate(written);
        self.status = Status {
            state: State::Running,
            step,
            consumed_tokens: tokens,
            loss: Some(record.loss),
            tokens_per_s: Some(tokens_per_s),
            eta_s,
            ..self.status.clone()
        };
        self.append(&Record::Step(Box::new(record)));
        self.write_status();
    }

    /// Of several ranks the slowest, by the name of its machine.
    fn slowest(&self, slowest: Option<(usize, f64)>) -> Option<SlowestRank> {
        let (rank, busy_share) = slowest.filter(|_| self.hosts.len() > 1)?;
        let host = self.hosts.get(rank)?.clone();
        Some(SlowestRank { rank, host, busy_share })
    }

    /// A validation loss; `seconds` do not count as training.
    pub fn evaluated(&mut self, record: EvalRecord, seconds: f64) {
        self.meter.exclude(Duration::from_secs_f64(seconds));
        self.logger.line(&record.line());
        let written = self.tensorboard.as_mut().map_or(Ok(()), |tensorboard| tensorboard.eval(&record));
        self.tolerate(written);
        self.append(&Record::Eval(record));
    }

    /// A trace was written, or could not be.
    pub(super) fn traced(&self, written: Result<Written>) {
        match written {
            Err(error) => self.tolerate(Err(error)),
            Ok(Written { path, lost: 0 }) => {
                self.logger.line(&format!("trace {}: open it in ui.perfetto.dev", path.display()));
            }
            Ok(Written { path, lost }) => {
                self.logger.warn(&format!("trace {}: {lost} events found no room", path.display()));
            }
        }
    }

    /// A save began; training stood still for `stall_s`.
    pub fn stalled(&mut self, stall_s: f64) {
        self.meter.exclude(Duration::from_secs_f64(stall_s));
    }

    /// A save ended well; the slowest of this start took `slowest_s`.
    pub fn saved(&mut self, saved: &Saved, stall_s: f64, slowest_s: Option<f64>) {
        self.status.save_s = slowest_s.or(self.status.save_s);
        let Saved { step, bytes, seconds: write_s, .. } = *saved;
        self.logger.line(&format!(
            "checkpoint {}: {} in {}",
            saved.dir.display(),
            units::bytes(bytes),
            units::duration(write_s)
        ));
        if let Some(warning) = &saved.warning {
            self.logger.warn(warning);
        }
        let dir = saved.dir.strip_prefix(&self.run_dir).unwrap_or(&saved.dir);
        let path = dir.display().to_string();
        self.append(&Record::Checkpoint(CheckpointRecord { step, path, bytes, stall_s, write_s }));
    }

    /// The run is waiting for its last save.
    pub fn saving(&mut self) {
        self.status.state = State::Saving;
        self.write_status();
    }

    /// The run ends.
    pub fn ended(&mut self, state: State, message: &str, exit_code: u8) {
        self.status =
            Status { state, message: message.to_owned(), exit_code: Some(exit_code), ..self.status.clone() };
        self.logger.line(message);
        self.write_status();
    }

    /// Notes the step in status.json when nothing is logged for it.
    pub fn at(&mut self, step: u64, tokens: u64) {
        (self.status.step, self.status.consumed_tokens) = (step, tokens);
    }
}

/// How long saves took at earlier starts.
fn earlier_save_s(folder: &RunFolder) -> Option<f64> {
    let (status, _) = StatusFile::read(&folder.dir().join("status.json")).ok()?;
    status.save_s.filter(|seconds| seconds.is_finite() && *seconds >= 0.0)
}

/// A finished run was started again: says so and leaves what it wrote as it is. Only a job that died between its
/// last checkpoint and its last word leaves a status to be put right.
pub fn still_finished(folder: &RunFolder, logger: &Logger, state: &TrainerState, total: u64) -> Result<()> {
    let message = format!("finished: all {total} steps are done");
    logger.line(&message);
    let written = StatusFile::read(&folder.dir().join("status.json")).map(|(status, _)| status);
    let before = written.unwrap_or_else(|_| Status::starting(total));
    if before.state == State::Finished && before.step == state.step {
        return Ok(());
    }
    folder.status().write(&Status {
        state: State::Finished,
        step: state.step,
        total_steps: total,
        consumed_tokens: state.consumed_tokens,
        message,
        exit_code: Some(0),
        ..before
    })
}

/// Notes the error in status.json, if the run had one that is its own. `total_steps` are those of a run that ends
/// before it has written any status.
pub fn failed(folder: &RunFolder, error: &Error, total_steps: u64) {
    // A run that is refused because another job holds the folder must not touch that job's status; and if
    // the folder itself is unwritable, the error that is reported already says so.
    if error.exit_code() == 1 {
        let written = StatusFile::read(&folder.dir().join("status.json")).map(|(status, _)| status);
        let before = written.unwrap_or_else(|_| Status::starting(total_steps));
        let message = error.to_string();
        let _ =
            folder.status().write(&Status { state: State::Failed, message, exit_code: Some(1), ..before });
    }
}
