//! Machines of one allocation against each other: which one is slow, and by how much.
//!
//! A machine is as fast as its slowest rank, and a rank as its best round. The median is that of the machines, of two
//! the better one: where half of them are slow, those are what is named.
//!
//! A machine is called slow if its best round is below [`WARN_BELOW`] of the median and, besides, below what machines
//! show from round to round: the *noise*, which is how far the second worst round of a machine lies below its best, of
//! the median machine. So even the best of what it did is worse than nearly the worst that others do. With nine rounds
//! each of two equal machines that happens by chance in at most one comparison of 2,431, whatever the noise is like: of
//! the C(18, 9) = 48,620 orders of their rounds ten have all of the one's below eight of the other's, and ten the
//! reverse. Anything less is told as what it is, too noisy to tell, and is nobody's fault.
//!
//! Fewer rounds than [`LEAST_ROUNDS`] mean that something was so slow that there was no time for more. Then all of them
//! count, a machine is slow below [`FAIL_BELOW`] only, and that is no more than a warning.

use serde::Serialize;

use super::file_system;
use super::finding::{Better, Finding, Verdict};
use super::report::RankReport;
use super::text::figure;

/// Below this share of what is due.
pub(super) const WARN_BELOW: f64 = 0.85;
pub(super) const FAIL_BELOW: f64 = 0.60;

/// With fewer rounds nobody knows well how noisy a machine is.
const LEAST_ROUNDS: usize = 7;

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
    /// How far rounds of one machine lie apart, as a share of its best.
    pub noise: f64,
    /// How many rounds there were.
    pub rounds: usize,
    /// The slowest machine.
    pub slowest: String,
    /// Its figure.
    pub slowest_value: f64,
    /// Every machine below [`WARN_BELOW`] of the median by more than the noise: its name and its share.
    pub slow: Vec<(String, f64)>,
    /// Every machine below it that the noise may be to blame for.
    pub unsure: Vec<(String, f64)>,
    /// That of the slowest of the slow.
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

/// The worst that a slow machine can be. A file system is one for all machines: whose requests its servers and its
/// network take first is not up to the machine alone, so it is told and fails nothing.
fn worst(check: &str, rounds: usize) -> Verdict {
    if check == file_system::CHECK || rounds < LEAST_ROUNDS { Verdict::Warn } else { Verdict::Fail }
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

/// What a machine has of a figure: that of its slowest rank.
struct Machine<'a> {
    host: &'a str,
    /// The worst first.
    rounds: Vec<f64>,
}

impl Machine<'_> {
    fn best(&self) -> f64 {
        self.rounds[self.rounds.len() - 1]
    }

    /// How far the second worst round lies below the best; of few rounds the worst.
    fn noise(&self, better: Better) -> f64 {
        let bad = self.rounds[usize::from(self.rounds.len() >= LEAST_ROUNDS)];
        1.0 - better.share(bad, self.best())
    }
}

fn of_figure(ranks: &[RankReport], like: &Finding, better: Better) -> Option<Comparison> {
    let machines = machines(ranks, like, better);
    if machines.len() < 2 {
        return None;
    }
    let median = machines[machines.len() / 2].best();
    let rounds = machines.iter().map(|machine| machine.rounds.len()).min().unwrap_or_default();
    let mut noises: Vec<f64> = machines.iter().map(|machine| machine.noise(better)).collect();
    noises.sort_by(f64::total_cmp);
    let noise = noises[noises.len() / 2];
    let slow_below = (1.0 - noise).min(if rounds < LEAST_ROUNDS { FAIL_BELOW } else { WARN_BELOW });
    let shares =
        machines.iter().map(|machine| (machine.host.to_owned(), better.share(machine.best(), median)));
    let below: Vec<(String, f64)> = shares.filter(|(_, share)| *share < WARN_BELOW).collect();
    let (slow, unsure): (Vec<_>, Vec<_>) = below.into_iter().partition(|(_, share)| *share < slow_below);
    let slowest = &machines[0];
    Some(Comparison {
        check: like.check.clone(),
        name: like.name.clone(),
        unit: like.unit.clone(),
        median,
        noise,
        rounds,
        slowest: slowest.host.to_owned(),
        slowest_value: slowest.best(),
        verdict: slow
            .first()
            .map_or(Verdict::Ok, |(_, share)| verdict(*share))
            .min(worst(&like.check, rounds)),
        slow,
        unsure,
    })
}

/// The machines that have a figure, the slowest first. A check that failed has no rounds.
fn machines<'a>(ranks: &'a [RankReport], like: &Finding, better: Better) -> Vec<Machine<'a>> {
    let mut machines: Vec<Machine<'a>> = Vec::new();
    for rank in ranks {
        let same = |finding: &&Finding| (&finding.check, &finding.name) == (&like.check, &like.name);
        let Some(finding) = rank.findings.iter().find(same).filter(|found| !found.rounds.is_empty()) else {
            continue;
        };
        let mut rounds = finding.rounds.clone();
        rounds.sort_by(|a, b| better.order(*a, *b));
        let of_rank = Machine { host: &rank.host, rounds };
        match machines.iter_mut().find(|machine| machine.host == rank.host) {
            Some(machine) if better.order(of_rank.best(), machine.best()).is_lt() => *machine = of_rank,
            Some(_) => {}
            None => machines.push(of_rank),
        }
    }
    machines.sort_by(|a, b| better.order(a.best(), b.best()));
    machines
}

impl Comparison {
    /// A line for each slow machine: "node07: gemm f32 is 71 % of the median, 410 GFLOP/s", and for each that may be.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        let few = if self.rounds < LEAST_ROUNDS {
            format!(", in {} rounds: there was no time for more", self.rounds)
        } else {
            String::new()
        };
        let noisy =
            format!("; too noisy to tell: rounds of one machine differ by {:.0} %", 100.0 * self.noise);
        let slow = self.slow.iter().map(|machine| self.line(machine));
        let unsure = self.unsure.iter().map(move |machine| self.line(machine) + &noisy);
        slow.chain(unsure).map(move |line| line + &few)
    }

    fn line(&self, (host, share): &(String, f64)) -> String {
        let Comparison { check, name, unit, median, .. } = self;
        format!("{host}: {check} {name} is {:.0} % of the median, {} {unit}", 100.0 * share, figure(*median))
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
mod tests;
