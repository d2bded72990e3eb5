//! `[schedule]`: the learning rate as a function of the step.

use std::f64::consts::PI;

/// The learning rate over the run; see [`Schedule::lr`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Schedule {
    /// The shape after the warm-up.
    pub kind: ScheduleKind,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// Steps of the final decay of `Wsd`; 0 for the other kinds.
    pub decay_steps: u64,
    /// Shape of that decay.
    pub decay_shape: DecayShape,
    /// The last learning rate over the base one.
    pub min_lr_ratio: f64,
}

/// `schedule.name`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScheduleKind {
    /// The base learning rate to the end.
    Constant,
    /// A straight line from the end of the warm-up to the last step.
    Linear,
    /// Half a cosine from the end of the warm-up to the last step (Loshchilov and Hutter, arXiv:1608.03983).
    Cosine,
    /// Warm-up, stable, decay: constant, then down over the last `decay_steps` (Hu et al., arXiv:2404.06395).
    Wsd,
}

/// `schedule.decay_shape`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecayShape {
    /// `1 - p`.
    Linear,
    /// `(1 + cos(π p)) / 2`.
    Cosine,
    /// `1 - sqrt(p)` (Hägele et al., arXiv:2405.18392).
    OneMinusSqrt,
}

impl DecayShape {
    /// From 1 at `p = 0` to 0 at `p = 1`.
    fn at(self, p: f64) -> f64 {
        match self {
            DecayShape::Linear => 1.0 - p,
            DecayShape::Cosine => 0.5 * (1.0 + (PI * p).cos()),
            DecayShape::OneMinusSqrt => 1.0 - p.sqrt(),
        }
    }
}

impl Schedule {
    /// The learning rate of update `step`, counted from 1, of `total_steps`.
    ///
    /// With warm-up `W`, decay `D` (the run's last steps: `total - W` for linear and cosine, `decay_steps` for wsd)
    /// and `r = min_lr_ratio`:
    /// - `step ≤ W`: `base · step / W`, so update `W` is the first at `base`;
    /// - constant, or `step ≤ total - D`: `base`;
    /// - else `base · (r + (1 - r) · shape(p))`, `p = (step - (total - D)) / D`, so the last update is at `base · r`.
    pub fn lr(&self, base_lr: f64, step: u64, total_steps: u64) -> f64 {
        if step < self.warmup_steps {
            return base_lr * step as f64 / self.warmup_steps as f64;
        }
        let after_warmup = total_steps.saturating_sub(self.warmup_steps);
        let (decay_steps, shape) = match self.kind {
            ScheduleKind::Constant => return base_lr,
            ScheduleKind::Linear => (after_warmup, DecayShape::Linear),
            ScheduleKind::Cosine => (after_warmup, DecayShape::Cosine),
            ScheduleKind::Wsd => (self.decay_steps, self.decay_shape),
        };
        let decay_start = total_steps.saturating_sub(decay_steps);
        if step <= decay_start {
            return base_lr;
        }
        let p = ((step - decay_start) as f64 / decay_steps as f64).min(1.0);
        base_lr * (self.min_lr_ratio + (1.0 - self.min_lr_ratio) * shape.at(p))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: ScheduleKind) -> Schedule {
        let (warmup_steps, decay_steps) = (10, if kind == ScheduleKind::Wsd { 20 } else { 0 });
        Schedule { kind, warmup_steps, decay_steps, decay_shape: DecayShape::OneMinusSqrt, min_lr_ratio: 0.1 }
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-15, "{a} {b}");
    }

    #[test]
    fn every_kind_warms_up_to_the_base_and_ends_at_the_minimum() {
        use ScheduleKind::*;
        for kind in [Constant, Linear, Cosine, Wsd] {
            let schedule = schedule(kind);
            close(schedule.lr(2e-3, 1, 100), 2e-4);
            close(schedule.lr(2e-3, 5, 100), 1e-3);
            assert_eq!(schedule.lr(2e-3, 10, 100), 2e-3);
            let end = if kind == Constant { 2e-3 } else { 2e-4 };
            close(schedule.lr(2e-3, 100, 100), end);
            close(schedule.lr(2e-3, 1000, 100), end);
            let rates: Vec<f64> = (10..=100).map(|step| schedule.lr(2e-3, step, 100)).collect();
            assert!(rates.windows(2).all(|pair| pair[1] <= pair[0]), "{kind:?} rises after the warm-up");
        }
    }

    #[test]
    fn half_way_values_follow_the_formulas() {
        close(schedule(ScheduleKind::Linear).lr(1.0, 55, 100), 0.55);
        close(schedule(ScheduleKind::Cosine).lr(1.0, 55, 100), 0.55);
        let wsd = schedule(ScheduleKind::Wsd);
        assert_eq!(wsd.lr(1.0, 80, 100), 1.0);
        close(wsd.lr(1.0, 85, 100), 0.1 + 0.9 * 0.5);
        close(Schedule { decay_shape: DecayShape::Linear, ..wsd }.lr(1.0, 85, 100), 0.1 + 0.9 * 0.75);
        close(Schedule { decay_shape: DecayShape::Cosine, ..wsd }.lr(1.0, 90, 100), 0.1 + 0.9 * 0.5);
    }

    #[test]
    fn without_warmup_the_first_update_has_the_base_rate_or_the_first_of_the_decay() {
        let constant = Schedule { warmup_steps: 0, ..schedule(ScheduleKind::Constant) };
        assert_eq!(constant.lr(1.0, 1, 1), 1.0);
        let linear = Schedule { warmup_steps: 0, min_lr_ratio: 0.0, ..schedule(ScheduleKind::Linear) };
        close(linear.lr(1.0, 1, 4), 0.75);
    }
}
