//! Made-up machines, quiet and noisy, equal and slow.

use super::*;

const ROUNDS: usize = 9;

/// Ranks of machines with these rounds of a figure.
fn ranks(check: &str, better: Better, all: &[(&str, Vec<f64>)]) -> Vec<RankReport> {
    let of = |(rank, (host, rounds)): (usize, &(&str, Vec<f64>))| RankReport {
        rank,
        host: (*host).to_owned(),
        findings: vec![
            Finding::text("host", "cpu", "some"),
            Finding::figure(check, "f32", rounds.clone(), "GFLOP/s", better),
        ],
    };
    all.iter().enumerate().map(of).collect()
}

/// The comparison of machines whose rounds are all alike.
fn of_quiet(better: Better, all: &[(&str, f64)]) -> Comparison {
    let all: Vec<_> = all.iter().map(|(host, figure)| (*host, vec![*figure; ROUNDS])).collect();
    of_noisy("gemm", better, &all)
}

fn of_noisy(check: &str, better: Better, all: &[(&str, Vec<f64>)]) -> Comparison {
    let [comparison] = &compare(&ranks(check, better, all))[..] else { panic!("one figure") };
    comparison.clone()
}

/// Rounds of a machine that others disturb: anything between `share` of its best and its best.
fn noisy(random: &mut u64, best: f64, share: f64) -> Vec<f64> {
    let mut uniform = || {
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*random >> 40) as f64 / (1_u64 << 24) as f64
    };
    (0..ROUNDS).map(|_| best * (share + (1.0 - share) * uniform())).collect()
}

#[test]
fn a_slow_machine_is_named_by_its_slowest_rank() {
    let all = [("a", 100.0), ("a", 98.0), ("b", 101.0), ("b", 70.0), ("c", 99.0), ("c", 100.0), ("d", 97.0)];
    let comparison = of_quiet(Better::Higher, &all);
    assert_eq!((comparison.slowest.as_str(), comparison.slowest_value), ("b", 70.0));
    assert_eq!((comparison.median, comparison.verdict), (98.0, Verdict::Warn));
    let line = comparison.lines().next().unwrap();
    assert_eq!(line, "b: gemm f32 is 71 % of the median, 98 GFLOP/s");
    assert_eq!(slow(&[comparison]), [("b".to_owned(), vec!["gemm f32 71 %".to_owned()])]);
}

#[test]
fn of_two_machines_the_slower_one_is_named() {
    let found = of_quiet(Better::Higher, &[("a", 50.0), ("b", 100.0)]);
    assert_eq!((found.slowest.as_str(), found.verdict), ("a", Verdict::Fail));
    let found = of_quiet(Better::Lower, &[("a", 10.0), ("b", 13.0)]);
    assert_eq!((found.slowest.as_str(), found.verdict), ("b", Verdict::Warn));
}

#[test]
fn one_machine_and_equal_machines_are_nobody_s_fault() {
    let one = [("a", vec![50.0; ROUNDS]), ("a", vec![100.0; ROUNDS])];
    assert!(compare(&ranks("gemm", Better::Higher, &one)).is_empty());
    let found = of_quiet(Better::Higher, &[("a", 95.0), ("b", 100.0), ("c", 90.0)]);
    assert_eq!((found.verdict, found.slow.len(), found.lines().count()), (Verdict::Ok, 0, 0));
}

#[test]
fn one_round_that_was_lucky_or_disturbed_changes_nothing() {
    let quiet = || vec![100.0; ROUNDS];
    let mut hiccup = quiet();
    hiccup[4] = 1.0;
    let slow = vec![50.0; ROUNDS];
    let found = of_noisy("gemm", Better::Higher, &[("a", hiccup.clone()), ("b", slow), ("c", hiccup)]);
    assert_eq!((found.slow.len(), found.noise, found.verdict), (1, 0.0, Verdict::Fail));
    let mut lucky = vec![20.0; ROUNDS];
    lucky[0] = 98.0;
    let found = of_noisy("gemm", Better::Higher, &[("a", lucky), ("b", quiet()), ("c", quiet())]);
    assert_eq!((found.slow.len(), found.unsure.len()), (0, 0), "its best round counts: {found:?}");
}

#[test]
fn what_lies_within_the_noise_is_told_and_blames_nobody() {
    let a = [90.0, 100.0, 55.0, 40.0, 70.0, 95.0, 50.0, 60.0, 80.0];
    let b = a.map(|round| 0.55 * round);
    let found = of_noisy("gemm", Better::Higher, &[("a", a.to_vec()), ("b", b.to_vec())]);
    assert_eq!((found.verdict, found.slow.len(), found.unsure.len()), (Verdict::Ok, 0, 1));
    assert_eq!(
        found.lines().collect::<Vec<_>>(),
        [
            "b: gemm f32 is 55 % of the median, 100 GFLOP/s; too noisy to tell: rounds of one machine differ by 50 %"
        ]
    );
    assert!(slow(&[found]).is_empty());
    // Slower than that it is slow, in whatever noise.
    let b = a.map(|round| 0.45 * round);
    let found = of_noisy("gemm", Better::Higher, &[("a", a.to_vec()), ("b", b.to_vec())]);
    assert_eq!((found.verdict, found.slow[0].0.as_str()), (Verdict::Fail, "b"));
}

#[test]
fn few_rounds_name_what_is_very_slow_and_fail_nothing() {
    let of = |figure: f64| {
        of_noisy("gemm", Better::Higher, &[("a", vec![100.0, 95.0, 90.0]), ("b", vec![figure; 3])])
    };
    let crawls = of(1.0);
    assert_eq!((crawls.verdict, crawls.slow.len(), crawls.rounds), (Verdict::Warn, 1, 3));
    let line = crawls.lines().next().unwrap();
    assert_eq!(
        line,
        "b: gemm f32 is 1 % of the median, 100 GFLOP/s, in 3 rounds: there was no time for more"
    );
    let slow = of(70.0);
    assert_eq!((slow.verdict, slow.slow.len(), slow.unsure.len()), (Verdict::Ok, 0, 1));
}

#[test]
fn a_file_system_warns_and_never_fails() {
    let all = [("a", vec![100.0; ROUNDS]), ("b", vec![10.0; ROUNDS])];
    let found = of_noisy("file_system", Better::Higher, &all);
    assert_eq!((found.verdict, found.slow[0].0.as_str()), (Verdict::Warn, "b"));
}

/// Four equal machines on which a round gives anything between a tenth and all, again and again; and beside three
/// of them one that is really slow.
#[test]
fn equal_machines_in_heavy_noise_are_not_blamed_and_a_slow_one_is() {
    let (mut random, mut blamed, mut found_slow) = (1, 0, 0);
    const TIMES: usize = 5000;
    for _ in 0..TIMES {
        let mut all = ["a", "b", "c", "d"].map(|host| (host, noisy(&mut random, 100.0, 0.1)));
        blamed += usize::from(!of_noisy("gemm", Better::Higher, &all).slow.is_empty());
        all[2].1 = noisy(&mut random, 8.0, 0.1);
        let found = of_noisy("gemm", Better::Higher, &all);
        found_slow += usize::from(found.slow.iter().any(|(host, _)| host == "c"));
    }
    assert!(blamed <= TIMES / 1000, "{blamed} of {TIMES}");
    assert!(found_slow >= TIMES * 99 / 100, "{found_slow} of {TIMES}");
}

#[test]
fn times_are_judged_as_rates_are() {
    let quick = [10.0, 11.0, 12.0, 10.5, 30.0, 11.5, 10.2, 10.8, 11.2];
    let slow = quick.map(|round| 1.5 * round);
    let found = of_noisy("all_reduce", Better::Lower, &[("a", quick.to_vec()), ("b", slow.to_vec())]);
    assert_eq!((found.slowest.as_str(), found.slowest_value, found.verdict), ("b", 15.0, Verdict::Warn));
    assert!((found.noise - (1.0 - 10.0 / 12.0)).abs() < 1e-12, "{found:?}");
}
