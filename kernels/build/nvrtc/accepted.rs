//! Findings about compiled code that fail the build, unless `cuda/accepted.txt` lists them with a reason.

use super::log::Report;

/// Something that costs time on the GPU and that nobody sees in the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) function: String,
    pub(crate) architecture: String,
    /// `spill`, `stack` or the code of ptxas, such as `C7511`.
    pub(crate) kind: String,
    pub(crate) detail: String,
}

/// A line of the list: `function architecture kind reason…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    line: usize,
    function: String,
    architecture: String,
    kind: String,
}

/// The findings of one log.
pub(crate) fn findings(report: &Report, architecture: &str) -> Vec<Finding> {
    let finding = |function: &str, kind: &str, detail: String| Finding {
        function: function.to_owned(),
        architecture: architecture.to_owned(),
        kind: kind.to_owned(),
        detail,
    };
    let mut findings = Vec::new();
    for function in &report.functions {
        if function.spill_bytes() > 0 {
            let detail = format!("{} bytes of spill stores and loads", function.spill_bytes());
            findings.push(finding(&function.name, "spill", detail));
        }
        // Spilled registers lie in the frame, which is a multiple of 8 bytes.
        if function.stack_bytes > function.spill_store_bytes.next_multiple_of(8) {
            let detail = format!("a stack frame of {} bytes", function.stack_bytes);
            findings.push(finding(&function.name, "stack", detail));
        }
    }
    for remark in &report.remarks {
        findings.push(finding(&remark.function, &remark.code, remark.text.clone()));
    }
    findings
}

/// Reads the list. Empty lines and lines that begin with `#` say nothing.
pub(crate) fn parse(list: &str) -> Result<Vec<Accepted>, String> {
    let mut accepted = Vec::new();
    for (i, line) in list.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let [function, architecture, kind, _reason, ..] = words[..] else {
            return Err(format!("line {}: not `function architecture kind reason`: {line}", i + 1));
        };
        let [function, architecture, kind] = [function, architecture, kind].map(str::to_owned);
        accepted.push(Accepted { line: i + 1, function, architecture, kind });
    }
    Ok(accepted)
}

impl Accepted {
    fn covers(&self, finding: &Finding) -> bool {
        self.function == finding.function
            && self.architecture == finding.architecture
            && self.kind == finding.kind
    }
}

/// One line for every finding that is not listed.
pub(crate) fn unlisted(findings: &[Finding], accepted: &[Accepted]) -> Vec<String> {
    let unlisted = findings.iter().filter(|finding| !accepted.iter().any(|entry| entry.covers(finding)));
    unlisted.map(|f| format!("{} {} {}: {}", f.function, f.architecture, f.kind, f.detail)).collect()
}

/// One line for every entry of the list that covers nothing: it would hide the next finding of its kind.
pub(crate) fn stale(findings: &[Finding], accepted: &[Accepted]) -> Vec<String> {
    let stale = accepted.iter().filter(|entry| !findings.iter().any(|finding| entry.covers(finding)));
    stale
        .map(|e| {
            format!("line {}: {} {} {} does not happen any more", e.line, e.function, e.architecture, e.kind)
        })
        .collect()
}
