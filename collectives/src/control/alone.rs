//! The control plane of one rank: its own word is the agreement.

use super::{Channel, Combine, ControlPlane, Failure, Progress, RankReport};

/// One rank alone.
#[derive(Debug, Default)]
pub struct Alone {
    progress: Progress,
}

impl ControlPlane for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn world_size(&self) -> usize {
        1
    }

    fn reduce(&self, _channel: Channel, _combine: Combine, words: &[u64]) -> Result<Vec<u64>, Failure> {
        Ok(words.to_vec())
    }

    fn gather(&self, _channel: Channel, bytes: Vec<u8>) -> Result<Option<Vec<Vec<u8>>>, Failure> {
        Ok(Some(vec![bytes]))
    }

    fn broadcast(&self, _channel: Channel, bytes: Vec<u8>) -> Result<Vec<u8>, Failure> {
        Ok(bytes)
    }

    fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Nobody else is to be told: the error itself ends the run.
    fn fail(&self, _failure: Failure) {}

    fn failure(&self) -> Option<Failure> {
        None
    }

    fn on_failure(&self, _hook: Box<dyn FnOnce(&Failure) + Send>) {}

    fn report(&self) -> Option<Vec<RankReport>> {
        None
    }
}
