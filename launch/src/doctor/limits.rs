//! What the process may take: open files, locked memory, stack, file size.

use super::finding::Finding;

const CHECK: &str = "limits";

/// Sockets and files of a rank beside the connections of rank 0.
const OWN_FILES: f64 = 256.0;

const MIB: f64 = (1_u64 << 20) as f64;

/// `ranks` of the run: rank 0 has a connection to each. `has_fabric`: the network wants memory locked.
pub(super) fn check(ranks: usize, has_fabric: bool) -> Vec<Finding> {
    let text = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    judge(&text, ranks, has_fabric)
}

fn judge(text: &str, ranks: usize, has_fabric: bool) -> Vec<Finding> {
    let limit = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let soft = line.split_whitespace().next()?;
        Some(if soft == "unlimited" { f64::INFINITY } else { soft.parse().ok()? })
    };
    let shown = |name: &str, limit: f64, unit: &str| match (limit.is_finite(), unit) {
        (false, _) => Finding::text(CHECK, name, "unlimited"),
        (true, "MiB") => Finding::number(CHECK, name, limit / MIB, unit),
        (true, _) => Finding::number(CHECK, name, limit, unit),
    };
    let mut findings = Vec::new();
    if let Some(files) = limit("Max open files") {
        let needed = OWN_FILES + ranks as f64;
        let finding = shown("open files", files, "");
        let advice =
            format!("{ranks} ranks want {needed} open files; hint: ulimit -n {needed} in the job script");
        findings.push(if files < needed { finding.fail(advice) } else { finding });
    }
    if let Some(locked) = limit("Max locked memory") {
        let finding = shown("locked memory", locked, "MiB");
        let advice = "the network registers memory, which counts as locked; hint: ulimit -l unlimited in the job script, \
                      or ask the site";
        findings.push(if has_fabric && locked.is_finite() { finding.warn(advice) } else { finding });
    }
    findings.extend(limit("Max stack size").map(|stack| shown("stack", stack, "MiB")));
    if let Some(size) = limit("Max file size") {
        let finding = shown("file size", size, "MiB");
        let advice = "checkpoints have files of many GiB; hint: ulimit -f unlimited";
        findings.push(if size.is_finite() { finding.warn(advice) } else { finding });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    const TEXT: &str = "\
Limit                     Soft Limit           Hard Limit           Units
Max file size             unlimited            unlimited            bytes
Max stack size            8388608              unlimited            bytes
Max open files            1024                 524288               files
Max locked memory         65536                65536                bytes
";

    fn verdicts(ranks: usize, has_fabric: bool) -> Vec<(String, Verdict)> {
        judge(TEXT, ranks, has_fabric).into_iter().map(|finding| (finding.name, finding.verdict)).collect()
    }

    #[test]
    fn limits_count_where_they_bind() {
        assert!(verdicts(64, false).iter().all(|(_, verdict)| *verdict == Verdict::Ok));
        let of =
            |all: Vec<(String, Verdict)>, name: &str| all.into_iter().find(|(n, _)| n == name).unwrap().1;
        assert_eq!(of(verdicts(1000, false), "open files"), Verdict::Fail);
        assert_eq!(of(verdicts(64, true), "locked memory"), Verdict::Warn);
    }
}
