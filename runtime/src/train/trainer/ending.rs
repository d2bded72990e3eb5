//! How a run ends without an error: all steps are done, or it was told to stop, after a step or before the first.

use super::{Agreement, StopCause, Trainer};
use crate::config::PlanCheck;
use crate::error::{Error, Result};
use crate::run::{Start, State};
use crate::train::{Outcome, opening};

impl Trainer {
    /// Whether a rank was told to stop before its first step, while it read data or checkpoints.
    pub(super) fn told_to_stop(&self) -> Result<Option<StopCause>> {
        let stop = self.run.stop.requested().map(StopCause::Signal);
        Ok(Agreement { stop, ..Agreement::default() }.reach(self.run.control.as_ref())?.stop)
    }

    /// Stops before the first step, when there is nothing to save. A run to which that happens again is started for
    /// nothing: its script must not start it for ever.
    pub(super) fn stop_at_once(mut self, cause: StopCause) -> Result<Outcome> {
        let idle = self.run.start.idle();
        if idle > 1 && self.run.config.run.max_idle_starts.is_some() {
            return Err(opening::no_progress(&self.run.folder, idle));
        }
        let message = format!(
            "stopped before the first step ({cause}), with nothing to save; run the same command again"
        );
        self.ended(State::Stopped, &message, 75);
        Ok(Outcome::Stopped(cause.to_string()))
    }

    fn ended(&mut self, state: State, message: &str, exit_code: u8) {
        self.report.ended(state, message, exit_code);
        self.note_start(|start| start.ended(exit_code));
    }

    pub(super) fn stop(mut self, cause: StopCause) -> Result<Outcome> {
        self.final_checkpoint()?;
        let step = self.run.state.step;
        let message =
            format!("stopped after step {step} ({cause}) with a checkpoint; run the same command again");
        self.ended(State::Stopped, &message, 75);
        Ok(Outcome::Stopped(cause.to_string()))
    }

    pub(super) fn finish(mut self) -> Result<Outcome> {
        self.final_checkpoint()?;
        self.check_plan()?;
        if let Some(entropy) = self.run.unigram_entropy {
            self.report
                .logger
                .line(&format!("unigram entropy of the training tokens: {entropy:.4} nats per token"));
        }
        let total = self.run.config.training.steps;
        self.ended(State::Finished, &format!("finished: all {total} steps are done"), 0);
        Ok(Outcome::Finished)
    }

    /// The arena was used exactly as the dry run said.
    fn check_plan(&self) -> Result<()> {
        let memory = self.run.engine.memory();
        if memory.peak == self.run.plan.peak && memory.high_water_bytes == self.run.plan.arena_bytes {
            return Ok(());
        }
        let message = format!(
            "the arena's use differs from its plan: {} of {} bytes (run.plan_check)",
            memory.high_water_bytes, self.run.plan.arena_bytes
        );
        match self.run.config.run.plan_check {
            PlanCheck::Error => Err(Error::fault(message)),
            PlanCheck::Warn => {
                self.report.logger.warn(&message);
                Ok(())
            }
        }
    }

    /// Keeps this start's entry in lineage.json up to date. On rank 0; elsewhere there is none.
    pub(super) fn note_start(&self, note: impl FnOnce(&Start) -> Result<()>) {
        self.report.tolerate(note(&self.run.start));
    }
}
