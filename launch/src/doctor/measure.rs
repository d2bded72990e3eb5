//! Work that is timed again and again, on all ranks at the same time.
//!
//! One time says how fast a machine was, a row of times also how far that can be trusted. So everything by which
//! machines are compared is measured in [`ROUNDS`] rounds. All ranks begin each piece of a round together, and the
//! pieces take turns: what disturbs a machine for a while meets some rounds of everything, not all rounds of one thing.

use std::time::Instant;

use tisserand_collectives::{Channel, ControlPlane};
use tisserand_runtime::Result;

use super::finding::{Better, Finding};

/// How often everything is measured.
pub(super) const ROUNDS: usize = 9;

/// Rounds end early when they take longer than this, or than twice the time that was meant for them. So a machine that
/// crawls does not hold up the whole.
const PATIENCE_S: f64 = 10.0;

/// A call that is timed.
pub(super) type Call = Box<dyn FnMut() -> Result<()>>;

/// Something that is done at a rate.
pub(super) struct Work {
    pub(super) check: &'static str,
    pub(super) name: &'static str,
    /// What one call does, and its unit per second.
    pub(super) amount: f64,
    pub(super) unit: &'static str,
    /// Or why it cannot be done.
    pub(super) call: Result<Call>,
}

/// Makes a round again and again; `round` gets its part of `seconds`. All ranks make equally many, and at least one.
///
/// # Errors
/// Those of `round`; a failure of any rank.
pub(super) fn rounds(
    control: &dyn ControlPlane,
    seconds: f64,
    mut round: impl FnMut(f64) -> Result<()>,
) -> Result<()> {
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        round(seconds / ROUNDS as f64)?;
        let taken_ms = control.max(Channel::Step, begun.elapsed().as_millis() as u64)?;
        if taken_ms as f64 / 1e3 > PATIENCE_S.max(2.0 * seconds) {
            break;
        }
    }
    Ok(())
}

/// A row for each piece of work, which share `seconds`. A piece that fails on a rank is a row that says why.
///
/// # Errors
/// A failure of any rank.
pub(super) fn rates(control: &dyn ControlPlane, seconds: f64, mut all: Vec<Work>) -> Result<Vec<Finding>> {
    // First calls do more than others, and are not timed.
    for work in &mut all {
        if let Ok(call) = &mut work.call
            && let Err(error) = call()
        {
            work.call = Err(error);
        }
    }
    let (pieces, mut taken) = (all.len() as f64, vec![Vec::new(); all.len()]);
    rounds(control, seconds, |share| {
        for (work, taken) in all.iter_mut().zip(&mut taken) {
            control.barrier(Channel::Step)?;
            let Ok(call) = &mut work.call else { continue };
            match fastest(share / pieces, call) {
                Ok(seconds) => taken.push(seconds),
                Err(error) => work.call = Err(error),
            }
        }
        Ok(())
    })?;
    Ok(all.into_iter().zip(taken).map(|(work, taken)| row(work, &taken)).collect())
}

fn row(work: Work, taken: &[f64]) -> Finding {
    let Work { check, name, amount, unit, call } = work;
    match call {
        Ok(_) => {
            let rates = taken.iter().map(|seconds| amount / seconds).collect();
            Finding::figure(check, name, rates, unit, Better::Higher)
        }
        Err(error) => Finding::failed(check, name, &error),
    }
}

/// Seconds of the fastest call of as many as `seconds` hold, at least one. The fastest, since what disturbs a call
/// makes it slower and never faster.
fn fastest(seconds: f64, call: &mut Call) -> Result<f64> {
    let begun = Instant::now();
    let mut fastest = f64::INFINITY;
    while fastest.is_infinite() || begun.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        call()?;
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    // A clock may not tell two instants apart.
    Ok(fastest.max(1e-9))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tisserand_collectives::control::{Alone, Memory};
    use tisserand_runtime::Error;

    use super::super::compare::compare;
    use super::super::finding::{Value, Verdict};
    use super::super::report::RankReport;
    use super::*;

    fn sleeper(ms: u64) -> Work {
        let call = move || {
            std::thread::sleep(Duration::from_millis(ms));
            Ok(())
        };
        Work { check: "gemm", name: "f32", amount: 1.0, unit: "GFLOP/s", call: Ok(Box::new(call)) }
    }

    /// Three ranks on a machine each, whose work takes so long, as they are measured and compared.
    fn measured(ms: [u64; 3]) -> Vec<RankReport> {
        let ranks: Vec<_> = Memory::new(3).into_iter().zip(ms).enumerate().collect();
        std::thread::scope(|scope| {
            let of = |(rank, (control, ms)): (usize, (Memory, u64))| {
                let findings = rates(&control, 0.1, vec![sleeper(ms)]).unwrap();
                RankReport { rank, host: format!("node{rank}"), findings }
            };
            let threads: Vec<_> = ranks.into_iter().map(|rank| scope.spawn(move || of(rank))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn a_machine_that_is_slow_in_every_round_is_named() {
        let found = compare(&measured([4, 80, 4]));
        assert_eq!((found[0].slowest.as_str(), found[0].verdict), ("node1", Verdict::Fail), "{found:?}");
        assert_eq!(found[0].slow.len(), 1, "{found:?}");
    }

    #[test]
    fn work_that_fails_is_a_row_and_does_not_stop_the_others() {
        let broken = Work { name: "bf16", call: Ok(Box::new(|| Err(Error::fault("no")))), ..sleeper(0) };
        let rows = rates(&Alone::default(), 0.01, vec![broken, sleeper(1)]).unwrap();
        assert_eq!((rows[0].verdict, rows[0].advice.as_str()), (Verdict::Fail, "no"));
        assert_eq!((rows[1].verdict, rows[1].rounds.len()), (Verdict::Ok, ROUNDS));
        assert!(matches!(rows[1].value, Value::Number(rate) if rate < 1001.0), "{rows:?}");
    }
}
