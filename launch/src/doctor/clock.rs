//! How far the clocks of other machines are from that of rank 0, and how fast this one's processor ticks.
//!
//! A leader of each machine asks rank 0 for the time, over the control plane. The answer was given between question and
//! arrival: the clocks differ by (answer − middle), give or take half of the round trip (Cristian, 1989). The quickest
//! of a few rounds counts.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tisserand_collectives::{Channel, ControlPlane, Meeting};
use tisserand_runtime::Result;

use super::finding::Finding;
use super::host;
use super::hosts::Hosts;

const CHECK: &str = "clock";

const ROUNDS: u64 = 6;

/// Beyond the uncertainty. Whether a run folder's lock is stale is judged by the age of a file, and that after a minute.
const WARN_ABOVE_MS: f64 = 1_000.0;
const FAIL_ABOVE_MS: f64 = 30_000.0;

/// How long all machines together may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// First of the numbers of these meetings: no digest of a communicator, in all likelihood.
const MEETINGS: u64 = 0x646f_6374_6f72_0000;

pub(super) fn check(control: &dyn ControlPlane, hosts: &Hosts) -> Result<Vec<Finding>> {
    control.barrier(Channel::Step)?;
    let mut findings = Vec::new();
    for (host, leader) in (0..).zip(hosts.leaders()).skip(1) {
        match control.rank() {
            0 => answer(control, host, leader)?,
            rank if rank == leader => findings.extend(ask(control, host, leader)?),
            _ => {}
        }
    }
    findings.extend(frequency(Path::new("/sys/devices/system/cpu"), &host::allowed_cores()));
    Ok(findings)
}

/// Question and answer of a round with a machine.
fn meetings(host: u64, leader: usize, round: u64) -> [Meeting; 2] {
    let number = MEETINGS + 2 * (host * ROUNDS + round);
    [number, number + 1].map(|number| Meeting { number, members: [0, leader].into() })
}

fn answer(control: &dyn ControlPlane, host: u64, leader: usize) -> Result<()> {
    for round in 0..ROUNDS {
        let [question, answer] = meetings(host, leader, round);
        control.bring(&question, Vec::new());
        control.brought(&question, "the comparison of clocks", PATIENCE)?;
        control.bring(&answer, unix_ns().to_le_bytes().to_vec());
        control.brought(&answer, "the comparison of clocks", PATIENCE)?;
    }
    Ok(())
}

fn ask(control: &dyn ControlPlane, host: u64, leader: usize) -> Result<Vec<Finding>> {
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let [question, answer] = meetings(host, leader, round);
        let (began, asked) = (Instant::now(), unix_ns());
        control.bring(&question, Vec::new());
        control.bring(&answer, Vec::new());
        let told = control.brought(&answer, "the comparison of clocks", PATIENCE)?;
        let trip_ns = began.elapsed().as_nanos() as i128;
        control.brought(&question, "the comparison of clocks", PATIENCE)?;
        if let Some(word) = told.first().and_then(|word| word.first_chunk()) {
            let theirs = i128::from_le_bytes(*word);
            rounds.push((trip_ns, asked + trip_ns / 2 - theirs));
        }
    }
    Ok(rounds.into_iter().min().map(|(trip, offset)| judge(offset, trip)).unwrap_or_default())
}

fn judge(offset_ns: i128, trip_ns: i128) -> Vec<Finding> {
    let (offset_ms, trip_ms) = (offset_ns as f64 / 1e6, trip_ns as f64 / 1e6);
    let surely_ms = (offset_ms.abs() - trip_ms / 2.0).max(0.0);
    let offset = Finding::number(CHECK, "ahead of rank 0", offset_ms, "ms");
    let advice = format!(
        "the clock differs from that of rank 0 by {offset_ms:.0} ms, give or take {:.0}: logs and the age of locks mislead; \
         hint: tell the site that chrony or ntpd does not run",
        trip_ms / 2.0
    );
    let offset = match surely_ms {
        ms if ms > FAIL_ABOVE_MS => offset.fail(advice),
        ms if ms > WARN_ABOVE_MS => offset.warn(advice),
        _ => offset,
    };
    vec![offset, Finding::number(CHECK, "round trip to rank 0", trip_ms, "ms")]
}

fn unix_ns() -> i128 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_nanos() as i128,
        Err(before) => -(before.duration().as_nanos() as i128),
    }
}

/// The fastest of the allowed cores while one of them computes, and what it could do. Virtual machines do not tell.
fn frequency(folder: &Path, cores: &[usize]) -> Vec<Finding> {
    let mut spun = 0_u64;
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(50) {
        spun = std::hint::black_box(spun.wrapping_mul(3).wrapping_add(1));
    }
    let fastest_ghz = |file: &str| {
        let read = |core: &usize| fs::read_to_string(folder.join(format!("cpu{core}/cpufreq/{file}"))).ok();
        let khz = cores.iter().filter_map(read).filter_map(|text| text.trim().parse::<f64>().ok());
        khz.reduce(f64::max).map(|khz| khz / 1e6)
    };
    let (Some(now), Some(most)) = (fastest_ghz("scaling_cur_freq"), fastest_ghz("cpuinfo_max_freq")) else {
        return vec![Finding::text(CHECK, "frequency", "not told by this machine")];
    };
    let finding = Finding::number(CHECK, "frequency", now, "GHz");
    let advice = format!(
        "{now:.2} GHz of {most:.2}: the processor saves energy or is hot; hint: srun --cpu-freq=Performance, or tell \
         the site"
    );
    vec![
        if now < 0.6 * most { finding.warn(advice) } else { finding },
        Finding::number(CHECK, "highest frequency", most, "GHz"),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn clocks_are_judged_beyond_what_the_network_leaves_unknown() {
        let of =
            |offset_ms: i128, trip_ms: i128| judge(offset_ms * 1_000_000, trip_ms * 1_000_000)[0].verdict;
        assert_eq!(of(900, 1), Verdict::Ok);
        assert_eq!(of(-1_100, 1), Verdict::Warn);
        assert_eq!(of(1_100, 400), Verdict::Ok);
        assert_eq!(of(40_000, 1), Verdict::Fail);
    }
}
