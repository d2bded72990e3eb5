//! What is said when a run of several ranks has failed: the table of what each was doing, and which machine to leave
//! out next time.

use serde::{Deserialize, Serialize};

use super::{Activity, CollectiveActivity};

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

/// The state of a rank that goes on as far as anybody knows.
pub(super) const RUNNING: &str = "running";

/// The state of a rank that has ended in good order.
pub(super) const LEFT: &str = "left";

/// Begins the state of a rank that has met a failure, and told it.
pub(super) const FAILED: &str = "failed: ";

impl RankReport {
    /// Slurm's name of its machine, where that is known.
    fn machine(&self) -> &str {
        self.activity.node.as_deref().unwrap_or(&self.host)
    }

    /// Whether the rank is gone or was waited for in vain: what a broken machine looks like. Errors that a rank met
    /// and told are no sign of one.
    fn is_missing(&self) -> bool {
        match self.state.strip_prefix(FAILED) {
            Some(cause) => ["late: ", "no sign of life", "died: connection closed", "did not join "]
                .iter()
                .any(|sign| cause.starts_with(sign)),
            None => self.state != RUNNING && self.state != LEFT,
        }
    }
}

const COLUMNS: [&str; 8] = ["rank", "host", "device", "step", "action", "collective", "idle", "state"];

/// The table as text: a header, then one line per rank. The state is the last column, since causes are long.
pub fn table(reports: &[RankReport]) -> String {
    let header = COLUMNS.map(str::to_owned);
    let rows: Vec<_> = std::iter::once(header).chain(reports.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// A line with Slurm's options for the next start, if all ranks that are missing were on one machine.
pub fn exclusion_hint(reports: &[RankReport]) -> Option<String> {
    let mut machines = reports.iter().filter(|report| report.is_missing()).map(RankReport::machine);
    let one = machines.next().filter(|machine| *machine != "-")?;
    let option = format!("--exclude={one} ...");
    let hint = || format!("hint: to leave out {one}: sbatch {option} (in an allocation: srun {option})\n");
    machines.all(|machine| machine == one).then(hint)
}

fn row(report: &RankReport) -> [String; COLUMNS.len()] {
    let Activity { device, step, action, unit, collective, .. } = &report.activity;
    let action = match (action, unit) {
        (Some(action), Some(unit)) => format!("{action} {unit}"),
        (Some(action), None) => action.to_string(),
        _ => "-".to_owned(),
    };
    let device = device.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
    let collective = collective.as_ref().map_or_else(|| "-".to_owned(), describe);
    let idle = format!("{:.1} s", report.age_s);
    let (rank, host, step) = (report.rank.to_string(), report.machine().to_owned(), step.to_string());
    [rank, host, device, step, action, collective, idle, report.state.clone()]
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

    fn report(rank: usize, host: &str, state: &str) -> RankReport {
        let (host, state) = (host.to_owned(), state.to_owned());
        RankReport { rank, host, activity: Activity::default(), age_s: 0.0, state }
    }

    #[test]
    fn the_table_names_device_action_and_collective_of_each_rank() {
        let activity = Activity {
            device: Some("GPU 2: NVIDIA H100".into()),
            node: Some("jzxh017".into()),
            step: 7,
            action: Some("backward".into()),
            unit: Some("block 3".into()),
            collective: Some(CollectiveActivity {
                axis: "dp_shard".into(),
                kind: "reduce_scatter".into(),
                sequence: 41,
                unit: Some("block 4".into()),
                done: false,
            }),
        };
        let text = table(&[RankReport { activity, ..report(2, "node1", RUNNING) }]);
        let line = text.lines().nth(1).unwrap();
        let collective = "dp_shard reduce_scatter #41 block 4 (waiting)";
        for word in ["2", "jzxh017", "GPU 2: NVIDIA H100", "7", "backward block 3", collective] {
            assert!(line.contains(word), "{text}");
        }
    }

    #[test]
    fn one_machine_is_to_blame_or_none() {
        let good = || report(0, "a", RUNNING);
        let died = |rank, host| report(rank, host, "died: connection closed");
        let late =
            |rank, host| report(rank, host, "failed: late: rank 0 waited 600 s in dp_shard #7, for rank 2");
        let hint = exclusion_hint(&[good(), died(1, "b"), late(2, "b"), report(3, "c", LEFT)]).unwrap();
        assert!(hint.contains("sbatch --exclude=b ") && hint.contains("srun --exclude=b "), "{hint}");
        assert_eq!(exclusion_hint(&[good(), died(1, "b"), late(2, "c")]), None);
        assert_eq!(exclusion_hint(&[good(), report(1, "b", "failed: cannot write x: no space left")]), None);
        assert_eq!(exclusion_hint(&[good(), died(1, "-")]), None);
        assert_eq!(exclusion_hint(&[]), None);
        let mut named = died(1, "vm");
        named.activity.node = Some("node3".into());
        assert!(exclusion_hint(&[good(), named]).unwrap().contains("--exclude=node3 "));
    }
}
