//! Machines of one allocation against each other: which one is slow, and by how much.
//!
//! A machine is as fast as its slowest rank. The median is that of the machines, of two the better one: where half of
//! them are slow, those are what is named.

use serde::Serialize;

use super::finding::{Better, Finding, Value, Verdict};
use super::report::RankReport;
use super::text::figure;

/// Below this share of what is due.
pub(super) const WARN_BELOW: f64 = 0.85;
pub(super) const FAIL_BELOW: f64 = 0.60;

/// A figure that all machines have.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Comparison {
    /// The check.
    pub check: String,
    /// What of it.
    pub name: String,
    /// Of the machines' figures.
    pub unit: String,
    /// The median machine's.
    pub median: f64,
    /// The slowest machine.
    pub slowest: String,
    /// Its figure.
    pub slowest_value: f64,
    /// Of every machine below [`WARN_BELOW`] of the median: its name and its share.
    pub slow: Vec<(String, f64)>,
    /// That of the slowest.
    pub verdict: Verdict,
}

/// How good a share of what is due is.
pub(super) fn verdict(share: f64) -> Verdict {
    match share {
        share if share < FAIL_BELOW => Verdict::Fail,
        share if share < WARN_BELOW => Verdict::Warn,
        _ => Verdict::Ok,
    }
}

/// Every figure by which machines are compared; none if there is one machine.
pub(super) fn compare(ranks: &[RankReport]) -> Vec<Comparison> {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    let mut comparisons = Vec::new();
    for finding in ranks.iter().flat_map(|rank| &rank.findings) {
        let key = (finding.check.as_str(), finding.name.as_str());
        let Some(better) = finding.better.filter(|_| !seen.contains(&key)) else { continue };
        seen.push(key);
        comparisons.extend(of_figure(ranks, finding, better));
    }
    comparisons
}

fn of_figure(ranks: &[RankReport], like: &Finding, better: Better) -> Option<Comparison> {
    // By host, its slowest rank.
    let mut hosts: Vec<(&str, f64)> = Vec::new();
    for rank in ranks {
        let same = |finding: &&Finding| (&finding.check, &finding.name) == (&like.check, &like.name);
        let Some(&Value::Number(number)) = rank.findings.iter().find(same).map(|finding| &finding.value)
        else {
            continue;
        };
        match hosts.iter_mut().find(|(host, _)| *host == rank.host) {
            Some((_, worst)) => *worst = worse(*worst, number, better),
            None => hosts.push((&rank.host, number)),
        }
    }
    if hosts.len() < 2 {
        return None;
    }
    // The slowest first.
    hosts.sort_by(|a, b| match better {
        Better::Higher => a.1.total_cmp(&b.1),
        Better::Lower => b.1.total_cmp(&a.1),
    });
    let median = hosts[hosts.len() / 2].1;
    let share = |value: f64| match better {
        Better::Higher => value / median,
        Better::Lower => median / value,
    };
    let shares = hosts.iter().map(|(host, value)| ((*host).to_owned(), share(*value)));
    let slow: Vec<(String, f64)> = shares.filter(|(_, share)| *share < WARN_BELOW).collect();
    let (slowest, slowest_value) = hosts[0];
    Some(Comparison {
        check: like.check.clone(),
        name: like.name.clone(),
        unit: like.unit.clone(),
        median,
        slowest: slowest.to_owned(),
        slowest_value,
        slow,
        verdict: verdict(share(slowest_value)),
    })
}

fn worse(a: f64, b: f64, better: Better) -> f64 {
    match better {
        Better::Higher => a.min(b),
        Better::Lower => a.max(b),
    }
}

impl Comparison {
    /// A line for each slow machine: "node07: gemm f32 is 71 % of the median, 410 GFLOP/s".
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        self.slow.iter().map(|(host, share)| {
            let Comparison { check, name, unit, median, .. } = self;
            format!(
                "{host}: {check} {name} is {:.0} % of the median, {} {unit}",
                100.0 * share,
                figure(*median)
            )
        })
    }
}

/// Machines that are slow in anything, and in what: "node07 (gemm f32 71 %)".
pub(super) fn slow(comparisons: &[Comparison]) -> Vec<(String, Vec<String>)> {
    let mut slow: Vec<(String, Vec<String>)> = Vec::new();
    for comparison in comparisons {
        for (host, share) in &comparison.slow {
            let what = format!("{} {} {:.0} %", comparison.check, comparison.name, 100.0 * share);
            match slow.iter_mut().find(|(known, _)| known == host) {
                Some((_, all)) => all.push(what),
                None => slow.push((host.clone(), vec![what])),
            }
        }
    }
    slow
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ranks of machines with these figures.
    fn ranks(better: Better, all: &[(&str, f64)]) -> Vec<RankReport> {
        let of = |(rank, (host, number)): (usize, &(&str, f64))| RankReport {
            rank,
            host: (*host).to_owned(),
            findings: vec![
                Finding::text("host", "cpu", "some"),
                Finding::figure("gemm", "f32", *number, "GFLOP/s", better),
            ],
        };
        all.iter().enumerate().map(of).collect()
    }

    #[test]
    fn a_slow_machine_is_named_by_its_slowest_rank() {
        let all =
            [("a", 100.0), ("a", 98.0), ("b", 101.0), ("b", 70.0), ("c", 99.0), ("c", 100.0), ("d", 97.0)];
        let found = compare(&ranks(Better::Higher, &all));
        let [comparison] = &found[..] else { panic!("{found:?}") };
        assert_eq!((comparison.slowest.as_str(), comparison.slowest_value), ("b", 70.0));
        assert_eq!((comparison.median, comparison.verdict), (98.0, Verdict::Warn));
        assert_eq!(slow(&found), [("b".to_owned(), vec!["gemm f32 71 %".to_owned()])]);
        let line = comparison.lines().next().unwrap();
        assert_eq!(line, "b: gemm f32 is 71 % of the median, 98 GFLOP/s");
    }

    #[test]
    fn of_two_machines_the_slower_one_is_named() {
        let found = compare(&ranks(Better::Higher, &[("a", 50.0), ("b", 100.0)]));
        assert_eq!((found[0].slowest.as_str(), found[0].verdict), ("a", Verdict::Fail));
        let found = compare(&ranks(Better::Lower, &[("a", 10.0), ("b", 13.0)]));
        assert_eq!((found[0].slowest.as_str(), found[0].verdict), ("b", Verdict::Warn));
    }

    #[test]
    fn one_machine_and_equal_machines_are_nobody_s_fault() {
        assert!(compare(&ranks(Better::Higher, &[("a", 50.0), ("a", 100.0)])).is_empty());
        let found = compare(&ranks(Better::Higher, &[("a", 95.0), ("b", 100.0), ("c", 90.0)]));
        assert_eq!((found[0].verdict, slow(&found).len()), (Verdict::Ok, 0));
    }
}
