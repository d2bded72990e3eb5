//! When a run saves, what it reports of it, and what a save that fails means.

use super::{Doing, Trainer};
use crate::checkpoint::Saved;
use crate::error::{Error, Result};

impl Trainer {
    /// Writes the weights alone if they are due. Before the checkpoint of the same step: a run that goes on
    /// from that one has them.
    pub(super) fn save_weights(&mut self, step: u64) -> Result<()> {
        if self.saving.weights_are_due(step) {
            self.collect_save(true);
            self.before_save()?;
            self.saving.weights(self.run.engine.as_mut(), step)?;
        }
        Ok(())
    }

    /// Takes a checkpoint once the save under way is written.
    pub(super) fn checkpoint(&mut self) -> Result<()> {
        self.collect_save(true);
        self.before_save()?;
        self.read_scalars()?;
        self.stall_s = self.saving.checkpoint(self.run.engine.as_mut(), &self.run.state)?;
        self.report.stalled(self.stall_s);
        Ok(())
    }

    /// The folder is still this job's.
    fn before_save(&self) -> Result<()> {
        self.note(Doing::Save);
        self.run.lock.as_ref().map_or(Ok(()), |lock| lock.check())
    }

    /// Reports a save that ended; with `wait`, waits for the one under way. A failed save does not end the
    /// run: the earlier checkpoint is there, and the next one may succeed.
    pub(super) fn collect_save(&mut self, wait: bool) {
        let ended = if wait { self.saving.wait() } else { self.saving.poll() };
        match ended {
            Some(Ok(saved)) => self.saved(&saved),
            Some(Err(Error::Peer(_))) => {} // The next agreement ends the run.
            Some(Err(error)) if self.run.control.rank() == 0 => {
                self.report.logger.warn(&format!("checkpoint failed, the run goes on: {error}"));
            }
            _ => {}
        }
    }

    fn saved(&mut self, saved: &Saved) {
        self.report.saved(saved, self.stall_s, self.saving.time().longest_s());
        let step = self.run.state.step;
        self.note_start(|start| start.reached(step));
    }

    /// The checkpoint of the last step; its failure is the run's.
    pub(super) fn final_checkpoint(&mut self) -> Result<()> {
        self.report.saving();
        if self.tracing.has_steps() {
            self.write_trace()?;
        }
        self.save_weights(self.run.state.step)?;
        self.checkpoint()?;
        if let Some(saved) = self.saving.wait() {
            self.saved(&saved?);
        }
        Ok(())
    }
}
