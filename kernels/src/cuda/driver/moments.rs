//! Times on a GPU: points of a stream that remember when they were reached.

use std::time::{Duration, Instant};

use crate::Result;

/// What a [`Driver`](super::Driver) knows of time. A moment belongs to whoever made it: unlike an event, it is not
/// used again for another point before it is dropped.
pub trait Moments {
    /// A point in a stream's work, with its time.
    type Moment: Send + Sync + 'static;

    /// The point behind all work queued on this stream so far.
    fn moment(&self) -> Result<Self::Moment>;

    /// The time between two moments of streams of one GPU, zero if `to` was the earlier; `None` while one of them is
    /// not reached. Nobody waits.
    fn elapsed(&self, from: &Self::Moment, to: &Self::Moment) -> Result<Option<Duration>>;

    /// When a moment was reached, by the host's clock; `None` while it is not. Nobody waits for the streams' work.
    fn reached_at(&self, moment: &Self::Moment) -> Result<Option<Instant>>;
}
