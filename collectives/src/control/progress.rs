//! What each rank is doing: noted by the rank as it goes, read when somebody must be told why a run hangs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::Trace;

/// The newest action and collective of a rank.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Activity {
    /// The step, from 1; 0 before the first.
    pub step: u64,
    /// The action of the step, "graph" for those of a whole micro-batch, or what is done between steps.
    pub action: Option<Arc<str>>,
    /// The unit of the model that the action works on.
    pub unit: Option<Arc<str>>,
    /// The newest collective that was begun.
    pub collective: Option<CollectiveActivity>,
}

/// A collective of a rank.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CollectiveActivity {
    /// Axis of the mesh.
    pub axis: Arc<str>,
    /// What it does: "all_gather".
    pub kind: Arc<str>,
    /// Its number on this communicator, from 0.
    pub sequence: u64,
    /// The unit on whose behalf it was begun.
    pub unit: Option<Arc<str>>,
    /// Whether it has ended on this rank.
    pub done: bool,
}

/// Where a rank notes its [`Activity`]. Clones share it.
#[derive(Clone, Debug)]
pub struct Progress {
    shared: Arc<Mutex<(Activity, Instant)>>,
    trace: Trace,
}

impl Default for Progress {
    fn default() -> Self {
        let newest = Mutex::new((Activity::default(), Instant::now()));
        Progress { shared: Arc::new(newest), trace: Trace::default() }
    }
}

impl Progress {
    /// Where everything is noted, not only the newest.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Changes the note and its time.
    pub fn note(&self, change: impl FnOnce(&mut Activity)) {
        let mut shared = self.lock();
        change(&mut shared.0);
        shared.1 = Instant::now();
    }

    /// The newest note, and the seconds since.
    pub fn read(&self) -> (Activity, f64) {
        let (activity, noted) = self.snapshot();
        (activity, noted.elapsed().as_secs_f64())
    }

    /// The newest note, and when it was made.
    pub(super) fn snapshot(&self) -> (Activity, Instant) {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, (Activity, Instant)> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One row of the table that ends a failed run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RankReport {
    /// The rank.
    pub rank: usize,
    /// Its machine.
    pub host: String,
    /// Its newest note, as far as it is known here.
    pub activity: Activity,
    /// Seconds between that note and the failure.
    pub age_s: f64,
    /// "running", or how it ended: "died: connection closed".
    pub state: String,
}

/// The table as text: a header, then one line per rank. The state is the last column, since causes are long.
pub fn table(reports: &[RankReport]) -> String {
    let header = ["rank", "host", "step", "action", "collective", "idle", "state"].map(str::to_owned);
    let rows: Vec<[String; 7]> = std::iter::once(header).chain(reports.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..7).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

fn row(report: &RankReport) -> [String; 7] {
    let Activity { step, action, unit, collective } = &report.activity;
    let action = match (action, unit) {
        (Some(action), Some(unit)) => format!("{action} {unit}"),
        (Some(action), None) => action.to_string(),
        _ => "-".to_owned(),
    };
    let collective = collective.as_ref().map_or_else(|| "-".to_owned(), describe);
    let idle = format!("{:.1} s", report.age_s);
    let (rank, step) = (report.rank.to_string(), step.to_string());
    [rank, report.host.clone(), step, action, collective, idle, report.state.clone()]
}

fn describe(collective: &CollectiveActivity) -> String {
    let CollectiveActivity { axis, kind, sequence, unit, done } = collective;
    let unit = unit.as_ref().map_or_else(String::new, |unit| format!(" {unit}"));
    let state = if *done { "done" } else { "waiting" };
    format!("{axis} {kind} #{sequence}{unit} ({state})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_action_and_collective_of_each_rank() {
        let progress = Progress::default();
        progress.note(|activity| {
            activity.step = 7;
            activity.action = Some("backward".into());
            activity.unit = Some("block 3".into());
            activity.collective = Some(CollectiveActivity {
                axis: "dp_shard".into(),
                kind: "reduce_scatter".into(),
                sequence: 41,
                unit: Some("block 4".into()),
                done: false,
            });
        });
        let (activity, age_s) = progress.read();
        let state = "running".to_owned();
        let text = table(&[RankReport { rank: 2, host: "node1".into(), activity, age_s, state }]);
        let line = text.lines().nth(1).unwrap();
        for word in ["2", "node1", "7", "backward block 3", "dp_shard reduce_scatter #41 block 4 (waiting)"] {
            assert!(line.contains(word), "{text}");
        }
    }
}
