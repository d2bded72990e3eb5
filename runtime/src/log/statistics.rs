//! What the log says about a series of steps: how unusual a value is, how fast the run goes, how long it
//! still takes.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Values before the first score, and the memory of the moving statistics: each new value weighs
/// `1 / min(count, MEMORY)`.
const WARM_UP: u64 = 20;
const MEMORY: f64 = 100.0;

/// How many standard deviations a value lies from the exponential moving mean of those before it: large
/// for a spike of the loss or the gradient norm.
///
/// With d = x − mean and a = 1 / min(n, 100) for the n-th value: mean += a·d; variance = (1 − a)·(variance +
/// a·d²) (Finch, "Incremental calculation of weighted mean and variance", 2009, §9). For the first 100 values
/// this is their plain mean and variance, so nothing is biased towards the start. The state is part of a
/// checkpoint; as JSON it reads back exactly.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct SpikeScore {
    count: u64,
    mean: f64,
    variance: f64,
}

impl SpikeScore {
    /// No values yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The z-score of `value` against the values before it, which it then joins. `None` for the first 20 values,
    /// and for a value that is not finite, which does not join.
    ///
    /// Differences below the resolution of f32 are no deviation, so that a constant series scores 0.
    pub fn score(&mut self, value: f64) -> Option<f64> {
        if !value.is_finite() {
            return None;
        }
        let difference = value - self.mean;
        let resolution = f64::from(f32::EPSILON) * self.mean.abs();
        let deviation = self.variance.sqrt().max(resolution).max(f64::MIN_POSITIVE);
        let score = (self.count >= WARM_UP).then(|| difference / deviation);
        self.count += 1;
        let weight = 1.0 / (self.count as f64).min(MEMORY);
        self.mean += weight * difference;
        self.variance = (1.0 - weight) * (self.variance + weight * difference * difference);
        score
    }
}

/// What happened between two log lines.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Interval {
    /// Steps done.
    pub steps: u64,
    /// Tokens trained on, by all ranks.
    pub tokens: u64,
    /// Seconds of training: the time between the lines without what was excluded.
    pub active_s: f64,
}

impl Interval {
    /// Seconds per step.
    pub fn step_s(&self) -> f64 {
        self.active_s / self.steps as f64
    }

    /// Tokens per second.
    pub fn tokens_per_s(&self) -> f64 {
        self.tokens as f64 / self.active_s
    }
}

/// Weight that the intervals before keep when the expected end is worked out.
const ETA_DECAY: f64 = 0.9;

/// Speed from one log line to the next, and the expected end.
#[derive(Clone, Debug)]
pub struct ThroughputMeter {
    since: Instant,
    steps: u64,
    tokens: u64,
    excluded: Duration,
    /// Decaying sums over the intervals of this start, evaluation and checkpoints included.
    recent_s: f64,
    recent_tokens: f64,
}

impl ThroughputMeter {
    /// Starts at `now`, with `steps` and `tokens` done so far (not 0 after a resume).
    pub fn new(now: Instant, steps: u64, tokens: u64) -> Self {
        let excluded = Duration::ZERO;
        ThroughputMeter { since: now, steps, tokens, excluded, recent_s: 0.0, recent_tokens: 0.0 }
    }

    /// Leaves `time`, spent in an evaluation or on a checkpoint, out of the speed.
    pub fn exclude(&mut self, time: Duration) {
        self.excluded += time;
    }

    /// Ends an interval at `now`, with `steps` and `tokens` done since the start of the run, and begins the next.
    /// Call it after at least one step.
    pub fn lap(&mut self, now: Instant, steps: u64, tokens: u64) -> Interval {
        let wall = now.duration_since(self.since);
        let interval = Interval {
            steps: steps.saturating_sub(self.steps),
            tokens: tokens.saturating_sub(self.tokens),
            active_s: wall.saturating_sub(self.excluded).as_secs_f64(),
        };
        self.recent_s = ETA_DECAY * self.recent_s + wall.as_secs_f64();
        self.recent_tokens = ETA_DECAY * self.recent_tokens + interval.tokens as f64;
        (self.since, self.steps, self.tokens, self.excluded) = (now, steps, tokens, Duration::ZERO);
        interval
    }

    /// Seconds for `tokens_left`, by the speed of about the last ten intervals with everything included.
    /// `None` before the first interval. In tokens rather than steps, since the batch may grow.
    pub fn eta_s(&self, tokens_left: u64) -> Option<f64> {
        (self.recent_tokens > 0.0).then(|| tokens_left as f64 * self.recent_s / self.recent_tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_begin_after_the_warm_up_and_match_plain_statistics_there() {
        let values: Vec<f64> = (0..20).map(|i| f64::from(i * i % 7)).collect();
        let mut spike = SpikeScore::new();
        for &value in &values {
            assert_eq!(spike.score(value), None);
        }
        let mean = values.iter().sum::<f64>() / 20.0;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 20.0;
        let score = spike.score(50.0).unwrap();
        assert!((score - (50.0 - mean) / variance.sqrt()).abs() < 1e-9, "{score}");
    }

    #[test]
    fn a_spike_stands_out_and_a_slow_descent_does_not() {
        let mut spike = SpikeScore::new();
        for step in 0..500 {
            let noise = 0.02 * f64::from(step * 7919 % 13 - 6) / 6.0;
            let score = spike.score(3.0 - 1e-4 * f64::from(step) + noise);
            assert!(score.is_none_or(|z| z.abs() < 3.0), "step {step}: {score:?}");
        }
        assert!(spike.score(3.5).unwrap() > 10.0);
    }

    #[test]
    fn constant_and_non_finite_values_are_harmless() {
        let mut spike = SpikeScore::new();
        for _ in 0..50 {
            spike.score(2.5);
        }
        let before = spike;
        assert_eq!(spike.score(f64::NAN), None);
        assert_eq!(spike.score(f64::INFINITY), None);
        assert_eq!(spike, before);
        assert_eq!(spike.score(2.5), Some(0.0));
        assert!(spike.score(2.6).unwrap().is_finite());
    }

    #[test]
    fn the_state_reads_back_exactly_from_json() {
        let mut spike = SpikeScore::new();
        for i in 0..123 {
            spike.score((f64::from(i) * 0.7).sin() / 3.0);
            let text = serde_json::to_string(&spike).unwrap();
            assert_eq!(serde_json::from_str::<SpikeScore>(&text).unwrap(), spike);
        }
    }

    #[test]
    fn speed_leaves_out_what_was_excluded_and_eta_does_not() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut meter = ThroughputMeter::new(start, 5, 500);
        assert_eq!(meter.eta_s(1000), None);
        let first = meter.lap(after(10), 15, 1500);
        assert_eq!((first.step_s(), first.tokens_per_s()), (1.0, 100.0));
        assert_eq!(meter.eta_s(1000), Some(10.0));
        meter.exclude(Duration::from_secs(10));
        let second = meter.lap(after(30), 25, 2500);
        assert_eq!((second.step_s(), second.tokens_per_s()), (1.0, 100.0));
        let eta = meter.eta_s(1900).unwrap();
        assert!((eta - 29.0).abs() < 1e-9, "{eta}");
    }
}
