//! How long a save takes, which a stop before a time limit must leave: measured, once there was one; before that, as
//! it was at an earlier start of the run (`save_s` of status.json); and at the first, from its bytes.

use crate::log::units;

/// What a machine is taken to write to a shared file system before that has been measured, in bytes per second. Most
/// give more; a run that stops too early has measured it by its next start.
const ASSUMED_BYTES_PER_S: f64 = 500e6;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct SaveTime {
    /// Of this start, snapshot included.
    longest_s: Option<f64>,
    expected_s: f64,
    /// Where that comes from.
    expected_by: String,
}

impl SaveTime {
    /// Before the first save: as `earlier` starts measured it, else from the bytes of a checkpoint that so many
    /// machines write.
    pub(super) fn expected(earlier: Option<f64>, bytes: u64, machines: usize) -> Self {
        let rate = ASSUMED_BYTES_PER_S * machines.max(1) as f64;
        let (expected_s, expected_by) = match earlier {
            Some(seconds) => (seconds, "the slowest of earlier starts".to_owned()),
            None => {
                let size = units::bytes(bytes);
                (bytes as f64 / rate, format!("not measured yet: {size} at {:.1} GB/s assumed", rate / 1e9))
            }
        };
        SaveTime { longest_s: None, expected_s, expected_by }
    }

    /// A save took so long.
    pub(super) fn measured(&mut self, seconds: f64) {
        self.longest_s = Some(self.longest_s.map_or(seconds, |longest| longest.max(seconds)));
    }

    /// Of the slowest save of this start, if there was one.
    pub(super) fn longest_s(&self) -> Option<f64> {
        self.longest_s
    }

    /// What to reckon with.
    pub(super) fn seconds(&self) -> f64 {
        self.longest_s.unwrap_or(self.expected_s)
    }

    /// "1m04s (the slowest of this start)".
    pub(super) fn describe(&self) -> String {
        let by = if self.longest_s.is_some() { "the slowest of this start" } else { &self.expected_by };
        format!("{} ({by})", units::duration(self.seconds()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_replaces_what_was_expected() {
        let mut time = SaveTime::expected(None, 20_000_000_000, 4);
        assert_eq!(time.seconds(), 10.0);
        assert!(
            time.describe().contains("not measured yet: 18.6 GiB at 2.0 GB/s assumed"),
            "{}",
            time.describe()
        );
        time.measured(3.0);
        time.measured(2.0);
        assert_eq!((time.seconds(), time.longest_s()), (3.0, Some(3.0)));
        let time = SaveTime::expected(Some(64.0), 1, 1);
        assert_eq!((time.seconds(), time.longest_s()), (64.0, None));
        assert_eq!(time.describe(), "1m04s (the slowest of earlier starts)");
    }
}
