//! `jobs/<n>-<job id>/flight/rank-R.json`: the newest collectives of a rank when the run had failed; `docs/failures.md`.

use std::fmt::Write;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use tisserand_collectives::control::host_name;
use tisserand_collectives::flight::{CallRecord, Recording};
use tisserand_collectives::{ControlPlane, Failure, Progress};

use super::job::JobFolder;
use crate::log::clock;

/// Writes the file once the run has failed, whatever the rank's other threads do then. Clones share it.
#[derive(Clone, Default)]
pub struct BlackBox(Arc<(Mutex<Writing>, Condvar)>);

/// Whether the file is still to come.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Writing {
    #[default]
    Not,
    UnderWay,
    Over,
}

impl BlackBox {
    /// From now on a failure makes the rank write its file into this job's folder. A failure that explains itself
    /// does not.
    pub fn arm(&self, control: &dyn ControlPlane, job: &JobFolder) {
        let (own, rank, progress, job) =
            (self.clone(), control.rank(), control.progress().clone(), job.clone());
        control.on_failure(Box::new(move |failure: &Failure| {
            if !failure.wants_table() {
                return;
            }
            own.set(Writing::UnderWay);
            let (failure, writer) = (failure.clone(), own.clone());
            // The file system may be what has failed: nobody else waits for it.
            let write = move || {
                // Whoever looks for the file has the table as well.
                let _ = job.write_flight(rank, &text(rank, &failure, &progress));
                writer.set(Writing::Over);
            };
            if std::thread::Builder::new().name("flight".to_owned()).spawn(write).is_err() {
                own.set(Writing::Over);
            }
        }));
    }

    /// Waits for a file that is being written.
    pub fn wait(&self, at_most: Duration) {
        let (state, changed) = &*self.0;
        let state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = changed.wait_timeout_while(state, at_most, |state| *state == Writing::UnderWay);
        drop(waited);
    }

    fn set(&self, writing: Writing) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = writing;
        self.0.1.notify_all();
    }
}

/// The file: JSON with one line per call, to be read by eye as well.
fn text(rank: usize, failure: &Failure, progress: &Progress) -> String {
    let (now, time) = (Instant::now(), clock::rfc3339(SystemTime::now()));
    let (activity, _) = progress.read();
    let head = json!({
        "rank": rank,
        "host": host_name(),
        "node": activity.node.as_deref(),
        "device": activity.device.as_deref(),
        "time": time,
        "failure": failure.to_string(),
        "step": activity.step,
        "action": activity.action.as_deref(),
        "unit": activity.unit.as_deref(),
    });
    let head = head.to_string();
    let communicators: Vec<String> =
        progress.flight().read().iter().map(|recording| communicator(recording, now)).collect();
    // The object is left open for what follows.
    format!("{},\n\"communicators\": [\n{}\n]}}\n", &head[..head.len() - 1], communicators.join(",\n"))
}

fn communicator(recording: &Recording, now: Instant) -> String {
    let mut text = format!(
        "{{\"axis\": {}, \"num_calls\": {}, \"calls\": [",
        json!(*recording.axis),
        recording.num_calls
    );
    for (place, record) in recording.in_order().enumerate() {
        let comma = if place > 0 { "," } else { "" };
        // Writing to a string does not fail.
        let _ = write!(text, "{comma}\n  {}", call(record, now));
    }
    text + "]}"
}

fn call(record: &CallRecord, now: Instant) -> Value {
    let CallRecord { sequence, kind, unit, step, payload_bytes, begin, end } = record;
    json!({
        "sequence": sequence,
        "kind": **kind,
        "unit": unit.as_deref(),
        "step": step,
        "payload_bytes": payload_bytes,
        "begin_s": before(*begin, now),
        "end_s": end.map_or_else(|| json!("open"), |end| json!(before(end, now))),
    })
}

/// Seconds from `now`, in microseconds: negative, since it lies before.
fn before(time: Instant, now: Instant) -> f64 {
    -(now.saturating_duration_since(time).as_micros() as f64) / 1e6
}
