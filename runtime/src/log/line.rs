//! The log line of a step: one aligned line for people.

use super::record::{EvalRecord, SlowestRank, StepRecord};
use super::units;

/// From this z-score on, the gradient norm's is shown too.
const NOTABLE_Z: f64 = 3.0;

/// From this ratio of the 99th percentile to the median on, the former is shown.
const NOTABLE_SPREAD: f64 = 1.2;

/// From this share of the step on, waiting for data is shown.
const NOTABLE_WAIT: f64 = 0.05;

impl StepRecord {
    /// The log line: fields always in this order and padded, so that lines stand in columns.
    ///
    /// ```text
    /// step     120/2000  tokens 245.8k  loss 3.41234 (z +0.3)  grad 0.81  lr 3.00e-4  1.02 s/step  2.0k tokens/s  ...
    /// ```
    ///
    /// The z-loss is shown if there is one, the exposed communication if there are several ranks; the gradient norm's z-score and the wait for data when they
    /// are large, the median and the 99th percentile of the steps' times when they differ; MFU with its convention and peak where the peak is known, else the speed alone.
    pub fn line(&self) -> String {
        let z = |z: Option<f64>| z.map_or_else(|| "   -".to_owned(), |z| format!("{z:>+4.1}"));
        let mut fields = vec![
            format!("step {:>7}/{}", self.step, self.total_steps),
            format!("tokens {:>6}", units::count(self.tokens)),
            format!("loss {:>7.5} (z {})", self.loss, z(self.loss_z)),
        ];
        if let Some(z_loss) = self.z_loss {
            fields.push(format!("z-loss {z_loss:.2e}"));
        }
        let grad_norm = units::three_digits(f64::from(self.grad_norm));
        fields.push(match self.grad_norm_z {
            Some(score) if score.abs() >= NOTABLE_Z => format!("grad {grad_norm:>4} (z {})", z(Some(score))),
            _ => format!("grad {grad_norm:>4}"),
        });
        fields.push(format!("lr {:.2e}", self.lr));
        fields.push(format!("{:>6}/step", units::period(self.step_s)));
        if let (Some(p50_s), Some(p99_s)) = (self.step_p50_s, self.step_p99_s)
            && p99_s > NOTABLE_SPREAD * p50_s
        {
            fields.push(format!("p50 {} p99 {}", units::period(p50_s), units::period(p99_s)));
        }
        if self.data_wait_s > NOTABLE_WAIT * self.step_s {
            fields.push(format!("data wait {:.0}%", 100.0 * self.data_wait_s / self.step_s));
        }
        if let Some(share) = self.exposed_communication {
            fields.push(format!("exposed comm {:>2.0}%", 100.0 * share));
        }
        if let Some(SlowestRank { rank, host, busy_share }) = &self.slowest {
            fields.push(format!("slowest {rank} on {host} {:.0}% busy", 100.0 * busy_share));
        }
        fields.push(format!("{:>4} tokens/s", units::rate(self.tokens_per_s)));
        fields.push(self.speed());
        let (used, planned) = (units::bytes(self.memory_used_bytes), units::bytes(self.memory_planned_bytes));
        fields.push(format!("mem {used} of {planned} planned"));
        fields.push(format!("skipped {}", self.skipped));
        fields.push(format!("eta {}", self.eta_s.map_or_else(|| "-".to_owned(), units::duration)));
        fields.join("  ")
    }

    fn speed(&self) -> String {
        let speed = units::flop_rate(self.gflop_per_s);
        match &self.mfu {
            Some(mfu) => format!(
                "{speed}  MFU {:.1}% ({} of {})",
                100.0 * mfu.value,
                self.flops_convention,
                units::flop_rate(mfu.peak_gflop_per_s)
            ),
            None => format!("{speed} ({})", self.flops_convention),
        }
    }
}

impl EvalRecord {
    /// The log line: `eval     120  fr: loss 3.12345  perplexity 22.7  tokens 4.00M`.
    pub fn line(&self) -> String {
        let perplexity = units::three_digits(self.perplexity);
        let tokens = units::count(self.tokens);
        format!(
            "eval {:>7}  {}: loss {:.5}  perplexity {perplexity}  tokens {tokens}",
            self.step, self.name, self.loss
        )
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::log::record::Mfu;

    pub(crate) fn example() -> StepRecord {
        StepRecord {
            step: 120,
            total_steps: 2000,
            tokens: 245_760,
            loss: 3.41234,
            z_loss: None,
            loss_z: Some(0.31),
            grad_norm: 0.8123,
            grad_norm_z: Some(-0.2),
            lr: 3e-4,
            step_s: 1.0204,
            step_p50_s: Some(1.02),
            step_p99_s: Some(1.1),
            slowest: None,
            data_wait_s: 0.001,
            exposed_communication: None,
            tokens_per_s: 2007.1,
            flops_per_token: 75.2e6,
            flops_convention: "6N+12Lhs".to_owned(),
            gflop_per_s: 150.9,
            mfu: None,
            memory_used_bytes: 512 << 20,
            memory_planned_bytes: 512 << 20,
            skipped: 0,
            eta_s: Some(192.0),
        }
    }

    #[test]
    fn the_line_of_a_quiet_step() {
        assert_eq!(
            example().line(),
            "step     120/2000  tokens 245.8k  loss 3.41234 (z +0.3)  grad 0.81  lr 3.00e-4  1.02 s/step  \
             2.0k tokens/s  151 GFLOP/s (6N+12Lhs)  mem 512 MiB of 512 MiB planned  skipped 0  eta 3m12s"
        );
    }

    #[test]
    fn the_line_of_a_step_with_everything() {
        let step = StepRecord {
            loss: f32::NAN,
            z_loss: Some(1.5e-3),
            loss_z: None,
            grad_norm: f32::INFINITY,
            grad_norm_z: Some(12.34),
            data_wait_s: 0.5102,
            step_p99_s: Some(1.5),
            exposed_communication: Some(0.0712),
            slowest: Some(SlowestRank { rank: 17, host: "jzxh017".to_owned(), busy_share: 0.984 }),
            gflop_per_s: 3.2e6,
            mfu: Some(Mfu { value: 0.4044, peak_gflop_per_s: 7.912e6 }),
            skipped: 2,
            eta_s: None,
            ..example()
        };
        assert_eq!(
            step.line(),
            "step     120/2000  tokens 245.8k  loss     NaN (z    -)  z-loss 1.50e-3  grad  inf (z +12.3)  \
             lr 3.00e-4  1.02 s/step  p50 1.02 s p99 1.50 s  data wait 50%  exposed comm  7%  \
             slowest 17 on jzxh017 98% busy  2.0k tokens/s  \
             3.20 PFLOP/s  MFU 40.4% (6N+12Lhs of 7.91 PFLOP/s)  mem 512 MiB of 512 MiB planned  skipped 2  eta -"
        );
    }

    #[test]
    fn the_line_of_an_evaluation() {
        let (name, loss) = ("fr".to_owned(), 3.123_451);
        let eval = EvalRecord { step: 120, name, loss, perplexity: loss.exp(), tokens: 4_000_000 };
        assert_eq!(eval.line(), "eval     120  fr: loss 3.12345  perplexity 22.7  tokens 4.00M");
    }
}
