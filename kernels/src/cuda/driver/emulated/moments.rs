//! Times on an emulated device: the host's clock, read when the stream comes to the point.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::Emulated;
use super::work::Work;
use crate::Result;
use crate::cuda::driver::Moments;

/// A point in the work of a stream, with its time.
pub struct EmulatedMoment {
    reached: Arc<OnceLock<Instant>>,
}

impl Moments for Emulated {
    type Moment = EmulatedMoment;

    fn moment(&self) -> Result<EmulatedMoment> {
        self.refuse_in_capture("moment")?;
        let reached = Arc::<OnceLock<Instant>>::default();
        self.queue(Work::Stamp(Arc::clone(&reached)))?;
        Ok(EmulatedMoment { reached })
    }

    fn elapsed(&self, from: &EmulatedMoment, to: &EmulatedMoment) -> Result<Option<Duration>> {
        let both = from.reached.get().zip(to.reached.get());
        Ok(both.map(|(from, to)| to.saturating_duration_since(*from)))
    }

    fn reached_at(&self, moment: &EmulatedMoment) -> Result<Option<Instant>> {
        Ok(moment.reached.get().copied())
    }
}
