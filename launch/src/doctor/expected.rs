//! Figures of GPUs and their network against what a profile of the planner expects (`--profile`).

use tisserand_runtime::plan::machine::Machine;

use super::compare::{WARN_BELOW, verdict};
use super::finding::{Finding, Value, Verdict};
use super::text::figure;

/// Judges a figure that the profile knows by its share of what the profile says is reached.
pub(super) fn judge(machine: &Machine, finding: &mut Finding) {
    let (Some(due), &Value::Number(found)) = (due(machine, finding), &finding.value) else { return };
    let share = found / due;
    if share < WARN_BELOW && finding.verdict == Verdict::Ok {
        finding.verdict = verdict(share);
        finding.advice = format!(
            "{:.0} % of the {} {} that profile {} expects; hint: other jobs on the node or its network, clocks, a \
             wrong profile",
            100.0 * share,
            figure(due),
            finding.unit,
            machine.name
        );
    }
}

/// In the finding's unit.
fn due(machine: &Machine, finding: &Finding) -> Option<f64> {
    let Machine { gpu, node, calibration, .. } = machine;
    let name = finding.name.as_str();
    match finding.check.as_str() {
        "gpu" if name == "gemm bf16" => {
            Some(calibration.sustained * calibration.gemm * gpu.bf16_flop_per_s / 1e12)
        }
        "gpu" if name == "copy" => Some(calibration.bandwidth * gpu.memory_bytes_per_s / 1e9),
        "all_reduce" if name == "inside a node, 256 MiB, bus" => {
            Some(calibration.link * node.link_bytes_per_s / 1e9)
        }
        "all_reduce" if name == "across nodes, 256 MiB, bus" => {
            Some(calibration.nic * node.nic_bytes_per_s / 1e9)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Better;
    use super::*;

    #[test]
    fn a_gpu_is_judged_by_its_profile() {
        let machine = Machine::load("h100-sxm").unwrap();
        let judged = |share: f64| {
            let due = machine.calibration.bandwidth * machine.gpu.memory_bytes_per_s / 1e9;
            let mut finding = Finding::figure("gpu", "copy", vec![share * due], "GB/s", Better::Higher);
            judge(&machine, &mut finding);
            (finding.verdict, finding.advice)
        };
        assert_eq!(judged(0.9), (Verdict::Ok, String::new()));
        assert_eq!(judged(0.5).0, Verdict::Fail);
        let (verdict, advice) = judged(0.7);
        assert_eq!(verdict, Verdict::Warn);
        assert!(advice.starts_with("70 % of the ") && advice.contains("profile h100-sxm"), "{advice}");
    }

    #[test]
    fn other_figures_are_left_alone() {
        let mut finding = Finding::figure("gemm", "f32", vec![1.0], "GFLOP/s", Better::Higher);
        judge(&Machine::load("h100-sxm").unwrap(), &mut finding);
        assert_eq!(finding.verdict, Verdict::Ok);
    }
}
