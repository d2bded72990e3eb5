//! The control plane of one rank: its own word is the agreement.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use super::{Channel, Combine, ControlPlane, Failure, Meeting, Progress, RankReport, lock};

/// One rank alone.
#[derive(Debug, Default)]
pub struct Alone {
    progress: Progress,
    /// By the number of the meeting.
    brought: Mutex<HashMap<u64, Vec<u8>>>,
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

    fn bring(&self, meeting: &Meeting, bytes: Vec<u8>) {
        lock(&self.brought).insert(meeting.number, bytes);
    }

    fn brought(&self, meeting: &Meeting, _: &str, _: Duration) -> Result<Vec<Vec<u8>>, Failure> {
        Ok(lock(&self.brought).remove(&meeting.number).into_iter().collect())
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
