//! The report for people: a row for each thing that was looked at, machines that agree in one.

use super::compare::Comparison;
use super::finding::{Finding, Value, Verdict};
use super::report::{Report, Slow};

/// Names of machines that a line may have.
const NAMES_MAX: usize = 4;

/// All lines.
pub fn lines(report: &Report) -> Vec<String> {
    let Report { ranks, hosts, seconds, tisserand, .. } = report;
    let ranks_on = plural(ranks.len(), "rank");
    let hosts_named = if hosts.len() == 1 { hosts[0].clone() } else { plural(hosts.len(), "host") };
    let mut lines =
        vec![format!("tisserand {tisserand} doctor: {ranks_on} on {hosts_named}, {seconds:.1} s")];
    let mut verdicts = Vec::new();
    for (check, name) in rows(report) {
        let cells = cells(report, check, name);
        let same = report.comparisons.iter().find(|c| (c.check.as_str(), c.name.as_str()) == (check, name));
        let all = cells.iter().map(|(_, finding)| finding.verdict).chain(same.map(|same| same.verdict));
        let worst = all.max().unwrap_or_default();
        verdicts.push(worst);
        let value = value(&cells, hosts.len() > 1);
        lines.push(format!("{:<5} {check:<12} {name:<32} {value}", worst.word()));
        lines.extend(advice(&cells, hosts.len() > 1));
        lines.extend(same.into_iter().flat_map(Comparison::lines).map(|line| format!("      {line}")));
    }
    lines.extend(end(report, &verdicts));
    lines
}

/// Every check and name, in the order in which they first come.
fn rows(report: &Report) -> Vec<(&str, &str)> {
    let mut rows: Vec<(&str, &str)> = Vec::new();
    for finding in report.ranks.iter().flat_map(|rank| &rank.findings) {
        let key = (finding.check.as_str(), finding.name.as_str());
        if !rows.contains(&key) {
            // Beside what belongs together, if another rank has it first.
            let behind = rows.iter().rposition(|(check, _)| *check == key.0).map_or(rows.len(), |at| at + 1);
            rows.insert(behind, key);
        }
    }
    rows
}

/// What each rank has of a row, with its host.
fn cells<'a>(report: &'a Report, check: &str, name: &str) -> Vec<(&'a str, &'a Finding)> {
    let ranks = report.ranks.iter();
    ranks
        .filter_map(|rank| {
            let mut findings = rank.findings.iter();
            let finding = findings.find(|finding| finding.check == check && finding.name == name)?;
            Some((rank.host.as_str(), finding))
        })
        .collect()
}

fn value(cells: &[(&str, &Finding)], with_hosts: bool) -> String {
    let mut numbers: Vec<(f64, &str)> = Vec::new();
    let mut texts: Vec<(&str, Vec<&str>)> = Vec::new();
    for (host, finding) in cells {
        match &finding.value {
            Value::Number(number) => numbers.push((*number, host)),
            Value::Text(text) => match texts.iter_mut().find(|(known, _)| known == text) {
                Some((_, hosts)) => hosts.push(host),
                None => texts.push((text, vec![host])),
            },
        }
    }
    let mut parts = Vec::new();
    if !numbers.is_empty() {
        let unit = cells.iter().map(|(_, finding)| finding.unit.as_str()).find(|unit| !unit.is_empty());
        parts.push(spread(numbers, unit.unwrap_or_default(), with_hosts));
    }
    let alone = texts.len() == 1 && parts.is_empty();
    parts.extend(texts.into_iter().map(|(text, hosts)| match alone || !with_hosts {
        true => text.to_owned(),
        false => format!("{text} on {}", names(&hosts)),
    }));
    parts.join("; ")
}

/// One number for all, or the median with both ends and, of several machines, whose those are.
fn spread(mut numbers: Vec<(f64, &str)>, unit: &str, with_hosts: bool) -> String {
    numbers.sort_by(|a, b| a.0.total_cmp(&b.0));
    let ((low, low_host), (high, high_host)) = (numbers[0], numbers[numbers.len() - 1]);
    let middle = figure(numbers[numbers.len() / 2].0);
    let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
    let (low, high) = (figure(low), figure(high));
    match (low == high, with_hosts) {
        (true, _) => format!("{middle}{unit}"),
        (false, false) => format!("{middle}{unit} ({low} to {high})"),
        (false, true) => format!("{middle}{unit} ({low} on {low_host} to {high} on {high_host})"),
    }
}

/// Three digits, or all of a whole number.
pub(super) fn figure(number: f64) -> String {
    match number.abs() {
        _ if number.fract() == 0.0 => format!("{number}"),
        size if size >= 100.0 => format!("{number:.0}"),
        size if size >= 10.0 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

/// Each piece of advice once, with the machines that it is for.
fn advice(cells: &[(&str, &Finding)], with_hosts: bool) -> Vec<String> {
    let mut all: Vec<(&str, Vec<&str>)> = Vec::new();
    for (host, finding) in cells.iter().filter(|(_, finding)| finding.verdict > Verdict::Ok) {
        match all.iter_mut().find(|(known, _)| *known == finding.advice) {
            Some((_, hosts)) => hosts.push(host),
            None => all.push((&finding.advice, vec![host])),
        }
    }
    let line = |(advice, hosts): (&str, Vec<&str>)| match with_hosts {
        true => format!("      {}: {advice}", names(&hosts)),
        false => format!("      {advice}"),
    };
    all.into_iter().map(line).collect()
}

/// Each name once, and how many more.
fn names(hosts: &[&str]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for host in hosts {
        if !names.contains(host) {
            names.push(host);
        }
    }
    let more = names.len().saturating_sub(NAMES_MAX);
    names.truncate(NAMES_MAX);
    let named = names.join(", ");
    if more > 0 { format!("{named} and {more} more") } else { named }
}

/// Slow machines, and how many rows are not as they should be.
fn end(report: &Report, verdicts: &[Verdict]) -> Vec<String> {
    let count = |verdict| verdicts.iter().filter(|found| **found == verdict).count();
    let (fails, warns) = (count(Verdict::Fail), count(Verdict::Warn));
    let mut lines = Vec::new();
    if report.hosts.len() > 1 {
        let shown = |slow: &Slow| format!("{} ({})", slow.host, slow.what.join(", "));
        match report.slow.is_empty() {
            true => lines.push("slow: none".to_owned()),
            false => {
                let hosts: Vec<&str> = report.slow.iter().map(|slow| slow.host.as_str()).collect();
                lines.push(format!("slow: {}", report.slow.iter().map(shown).collect::<Vec<_>>().join("; ")));
                lines.push(format!("      hint: sbatch --exclude={}", hosts.join(",")));
            }
        }
    }
    lines.push(match (fails, warns) {
        (0, 0) => "all is well".to_owned(),
        _ => format!("{}, {}", plural(fails, "failure"), plural(warns, "warning")),
    });
    lines
}

fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::super::finding::Better;
    use super::super::report::RankReport;
    use super::*;

    fn report(hosts: &[(&str, f64)]) -> Report {
        let rank = |(rank, (host, gflop)): (usize, &(&str, f64))| RankReport {
            rank,
            host: (*host).to_owned(),
            findings: vec![
                Finding::text("host", "cpu", "EPYC"),
                Finding::figure("gemm", "f32", vec![*gflop; 9], "GFLOP/s", Better::Higher),
            ],
        };
        let names = hosts.iter().map(|(host, _)| (*host).to_owned()).collect();
        Report::of(names, hosts.iter().enumerate().map(rank).collect(), 12.34)
    }

    #[test]
    fn machines_that_agree_share_a_line_and_a_slow_one_is_named() {
        let lines = lines(&report(&[("node01", 400.0), ("node02", 410.0), ("node03", 284.0)]));
        let expected = [
            format!("tisserand {} doctor: 3 ranks on 3 hosts, 12.3 s", env!("CARGO_PKG_VERSION")),
            "ok    host         cpu                              EPYC".into(),
            "warn  gemm         f32                              400 GFLOP/s (284 on node03 to 410 on node02)".into(),
            "      node03: gemm f32 is 71 % of the median, 400 GFLOP/s".into(),
            "slow: node03 (gemm f32 71 %)".into(),
            "      hint: sbatch --exclude=node03".into(),
            "0 failures, 1 warning".into(),
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn one_machine_has_no_names_in_its_rows() {
        let lines = lines(&report(&[("here", 400.5)]));
        assert_eq!(lines[2], "ok    gemm         f32                              400 GFLOP/s");
        assert_eq!(lines[3..], ["all is well"]);
    }

    #[test]
    fn long_lists_are_cut_and_figures_rounded() {
        assert_eq!(names(&["a", "b", "a", "c", "d", "e", "f"]), "a, b, c, d and 2 more");
        assert_eq!([0.123, 12.34, 123.4, 5.0].map(figure), ["0.12", "12.3", "123", "5"]);
    }
}
