//! Saving while training goes on: one thread that writes snapshots, one job at a time.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use super::save::{SaveJob, Saved, WeightsJob, save, save_weights};
use crate::{Error, Result};

/// What the thread writes.
#[derive(Clone, Debug)]
pub enum Job {
    /// A checkpoint.
    Checkpoint(Box<SaveJob>),
    /// Weights only.
    Weights(WeightsJob),
}

impl Job {
    fn run(&self) -> Result<Saved> {
        match self {
            Job::Checkpoint(job) => save(job),
            Job::Weights(job) => save_weights(job),
        }
    }

    /// The folder that gets the new step.
    fn parent(&self) -> &Path {
        match self {
            Job::Checkpoint(job) => &job.checkpoints_dir,
            Job::Weights(job) => &job.weights_dir,
        }
    }
}

/// Owns the writing thread. Dropping it waits for the job in flight, so that a started save is finished.
#[derive(Debug)]
pub struct BackgroundSaver {
    jobs: Option<SyncSender<Job>>,
    results: Receiver<Result<Saved>>,
    thread: Option<JoinHandle<()>>,
    /// Where the job in flight writes.
    in_flight: Option<String>,
}

impl BackgroundSaver {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start() -> Result<Self> {
        let (jobs, inbox) = sync_channel::<Job>(1);
        let (outbox, results) = sync_channel(1);
        let write_all = move || {
            for job in inbox {
                let result = job.run();
                // The snapshot's buffers go back to their owner before the owner learns of the result.
                drop(job);
                if outbox.send(result).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("checkpoint".into())
            .spawn(write_all)
            .map_err(|e| Error::fault(format!("cannot start the thread that writes checkpoints: {e}")))?;
        Ok(BackgroundSaver { jobs: Some(jobs), results, thread: Some(thread), in_flight: None })
    }

    /// Whether a job has been submitted whose result has not been taken.
    pub fn is_busy(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Hands over a job and returns at once.
    ///
    /// # Errors
    /// If the result of the job before has not been taken by [`poll`](Self::poll) or
    /// [`wait`](Self::wait): its failure must not go unseen.
    pub fn submit(&mut self, job: Job) -> Result<()> {
        if let Some(dir) = &self.in_flight {
            return Err(Error::fault(format!("a save into {dir} is still in flight")));
        }
        let dir = job.parent().display().to_string();
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if !sent {
            return Err(Error::fault(format!("the thread that writes checkpoints into {dir} has died")));
        }
        self.in_flight = Some(dir);
        Ok(())
    }

    /// The result of the job in flight, if it has ended. A failed save is an error of that job only; the
    /// next one may be submitted.
    pub fn poll(&mut self) -> Option<Result<Saved>> {
        let dir = self.in_flight.take()?;
        match self.results.try_recv() {
            Ok(result) => Some(result),
            Err(TryRecvError::Disconnected) => Some(Err(Self::died(&dir))),
            Err(TryRecvError::Empty) => {
                self.in_flight = Some(dir);
                None
            }
        }
    }

    /// Waits for the job in flight; `None` if there is none.
    pub fn wait(&mut self) -> Option<Result<Saved>> {
        let dir = self.in_flight.take()?;
        Some(self.results.recv().unwrap_or_else(|_| Err(Self::died(&dir))))
    }

    /// Waits for the job in flight and ends the thread.
    pub fn finish(mut self) -> Option<Result<Saved>> {
        self.wait()
    }

    fn died(dir: &str) -> Error {
        Error::fault(format!("the thread that writes a checkpoint into {dir} has died"))
    }
}

impl Drop for BackgroundSaver {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by the thread itself and by `poll`.
            let _ = thread.join();
        }
    }
}
