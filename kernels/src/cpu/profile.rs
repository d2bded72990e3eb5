//! Where the time of the CPU device goes: a clock that every op turns to its name.

use std::time::Instant;

/// What one op took.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct OpTime {
    /// Name of the op.
    pub op: &'static str,
    /// Number of calls.
    pub calls: u64,
    /// Wall time of all calls, in seconds.
    pub seconds: f64,
}

/// Times by op, and the op under way.
#[derive(Default)]
pub(super) struct Profile {
    times: Vec<OpTime>,
    /// Index in `times`, and when it began.
    under_way: Option<(usize, Instant)>,
}

impl Profile {
    /// Ends the op under way and begins `op`.
    pub(super) fn begin(&mut self, op: &'static str) {
        self.end();
        let index = self.times.iter().position(|time| time.op == op).unwrap_or_else(|| {
            self.times.push(OpTime { op, calls: 0, seconds: 0.0 });
            self.times.len() - 1
        });
        self.times[index].calls += 1;
        self.under_way = Some((index, Instant::now()));
    }

    /// Ends the op under way and gives all times.
    pub(super) fn take(&mut self) -> Vec<OpTime> {
        self.end();
        std::mem::take(&mut self.times)
    }

    fn end(&mut self) {
        if let Some((index, begun)) = self.under_way.take() {
            self.times[index].seconds += begun.elapsed().as_secs_f64();
        }
    }
}
