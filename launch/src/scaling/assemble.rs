//! From what the ranks wrote down to the figures of a point.

use std::collections::BTreeSet;

use super::energy::Energy;
use super::predict::Prediction;
use super::record::PointRecord;
use super::report::{Breakdown, Efficiency, Point, PointEnergy, Predicted, Utilization};
use super::statistics::Summary;

/// One point's results.
pub struct Measured {
    /// Nodes or ranks.
    pub count: usize,
    /// Each finished repeat with its number, at least one.
    pub repeats: Vec<(usize, PointRecord)>,
    /// The planner's answer, with a profile.
    pub prediction: Option<Prediction>,
}

/// The points, in ascending order; `smallest` is the count that efficiency is relative to.
pub fn points(measured: &[Measured], smallest: usize) -> Vec<Point> {
    let base = measured.iter().find(|point| point.count == smallest);
    measured.iter().filter_map(|point| Some(assemble(point, base, steps(point)?))).collect()
}

fn steps(point: &Measured) -> Option<Summary> {
    let steps = point.repeats.iter().flat_map(|(_, record)| &record.steps);
    Summary::of(steps.map(|step| step.total_s))
}

fn assemble(point: &Measured, base: Option<&Measured>, step_s: Summary) -> Point {
    let first = &point.repeats[0].1;
    let ranks = first.ranks;
    let tokens_per_s = first.tokens_per_step as f64 / step_s.median;
    let breakdown = breakdown(&point.repeats);
    let mean_s = breakdown.compute_s + breakdown.exposed_s + breakdown.data_s + breakdown.other_s;
    let of_rank = tokens_per_s / ranks as f64;
    let utilization = point.prediction.as_ref().map(|prediction| {
        let share = |flop_per_s: f64| flop_per_s / prediction.peak_flop_per_s;
        Utilization {
            mfu_full: share(of_rank * first.flops_per_token_full),
            mfu_causal: share(of_rank * first.flops_per_token_causal),
            hfu: share(first.executed_flops_per_step as f64 / step_s.median),
        }
    });
    let rows = || point.repeats.iter().flat_map(|(_, record)| &record.rank_rows);
    let computes = rows().map(|row| row.compute_s.mean);
    let computes = Summary::of(computes).map_or([0.0; 2], |summary| [summary.min, summary.max]);
    let distinct = |names: BTreeSet<&String>| names.into_iter().cloned().collect();
    Point {
        count: point.count,
        ranks,
        mesh: first.mesh,
        global_batch: first.global_batch,
        micro_batch: first.micro_batch,
        grad_accum: first.grad_accum,
        tokens_per_step: first.tokens_per_step,
        step_s,
        repeat_medians_s: point.repeats.iter().filter_map(|(_, record)| median(record)).collect(),
        repeats: point.repeats.iter().map(|(repeat, _)| *repeat).collect(),
        tokens_per_s,
        tokens_per_s_per_rank: of_rank,
        model_flop_per_s: tokens_per_s * first.flops_per_token_full,
        utilization,
        breakdown,
        exposed_share: breakdown.exposed_s / mean_s,
        compute_of_ranks_s: computes,
        efficiency: base.and_then(|base| efficiency(point, base)),
        predicted: predicted(point, base, step_s.median),
        energy: energy(&point.repeats),
        arena_bytes: first.arena_bytes,
        traffic: first.traffic.clone(),
        hosts: distinct(rows().map(|row| &row.host).collect()),
        devices: distinct(rows().map(|row| &row.device).collect()),
        loss: first.loss,
    }
}

fn median(record: &PointRecord) -> Option<f64> {
    Summary::of(record.steps.iter().map(|step| step.total_s)).map(|steps| steps.median)
}

/// Means over ranks, steps and repeats. Parts of a step add up only as means.
fn breakdown(repeats: &[(usize, PointRecord)]) -> Breakdown {
    let rows: Vec<_> = repeats.iter().flat_map(|(_, record)| &record.rank_rows).collect();
    let mean = |part: fn(&tisserand_runtime::train::measure::StepTime) -> f64| {
        rows.iter().map(|row| part(&row.mean)).sum::<f64>() / rows.len().max(1) as f64
    };
    Breakdown {
        compute_s: mean(|time| time.compute_s),
        exposed_s: mean(|time| time.exposed_s),
        data_s: mean(|time| time.data_s),
        other_s: mean(|time| time.other_s()),
    }
}

/// Seconds that a rank takes for a token.
fn seconds_per_token(step_s: f64, record: &PointRecord) -> f64 {
    step_s * record.ranks as f64 / record.tokens_per_step as f64
}

/// By pairs of one repeat, so that a machine that gets slower with time slows both of a pair. Repeats without a
/// partner count only where there is no pair.
fn efficiency(point: &Measured, base: &Measured) -> Option<Efficiency> {
    let of_repeat = |(repeat, record): &(usize, PointRecord)| {
        let (_, base) = base.repeats.iter().find(|(of, _)| of == repeat)?;
        Some(seconds_per_token(median(base)?, base) / seconds_per_token(median(record)?, record))
    };
    if let Some(repeats) = Summary::of(point.repeats.iter().filter_map(of_repeat)) {
        return Some(Efficiency { value: repeats.median, low: repeats.min, high: repeats.max });
    }
    let slowness = |of: &Measured| Some(seconds_per_token(steps(of)?.median, &of.repeats[0].1));
    let value = slowness(base)? / slowness(point)?;
    Some(Efficiency { value, low: value, high: value })
}

fn predicted(point: &Measured, base: Option<&Measured>, step_s: f64) -> Option<Predicted> {
    let prediction = point.prediction.as_ref()?;
    let base = base?;
    let smallest = base.prediction.as_ref()?;
    let efficiency = seconds_per_token(smallest.step_s, &base.repeats[0].1)
        / seconds_per_token(prediction.step_s, &point.repeats[0].1);
    Some(Predicted {
        step_s: prediction.step_s,
        exposed_s: prediction.exposed_s,
        efficiency,
        reached: prediction.step_s / step_s,
    })
}

/// Only if every repeat has it.
fn energy(repeats: &[(usize, PointRecord)]) -> Option<PointEnergy> {
    let all: Vec<(&PointRecord, &Energy)> = repeats
        .iter()
        .map(|(_, record)| Some((record, record.energy.as_ref()?)))
        .collect::<Option<Vec<_>>>()?;
    let per_token = all
        .iter()
        .map(|(record, energy)| energy.joules / (record.steps.len() as f64 * record.tokens_per_step as f64));
    let joules_per_token = Summary::of(per_token)?.median;
    let watts = Summary::of(all.iter().map(|(_, energy)| energy.joules / energy.seconds))?.median;
    let (_, first) = all.first()?;
    Some(PointEnergy {
        source: first.source.clone(),
        joules_per_token,
        watts,
        sm_clock_mhz: first.sm_clock_mhz,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use tisserand_runtime::train::measure::{MeasuredData, StepTime};

    use super::super::record::{MeshSizes, RankRow};
    use super::*;

    /// A repeat whose steps take these seconds, a tenth of it exposed and a twentieth waiting for data.
    pub(crate) fn record(ranks: usize, global_batch: usize, steps: &[f64]) -> PointRecord {
        let time = |total_s: &f64| StepTime {
            total_s: *total_s,
            compute_s: 0.8 * total_s,
            exposed_s: 0.1 * total_s,
            data_s: 0.05 * total_s,
        };
        let steps: Vec<StepTime> = steps.iter().map(time).collect();
        let mean = |part: fn(&StepTime) -> f64| Summary::of(steps.iter().map(part)).unwrap();
        let row = |rank: usize| RankRow {
            rank,
            local_rank: rank % 4,
            host: format!("node{}", rank / 4),
            device: "1 CPU thread".to_owned(),
            step_s: mean(|time| time.total_s),
            compute_s: mean(|time| time.compute_s),
            mean: time(&mean(|time| time.total_s).mean),
        };
        PointRecord {
            time: "2026-11-26T10:00:00.000Z".to_owned(),
            program: "0.1.0 (abc123, release build)".to_owned(),
            ranks,
            mesh: MeshSizes { dp_replicate: 1, dp_shard: ranks, tp: 1, zero: 3 },
            global_batch,
            micro_batch: 1,
            grad_accum: global_batch / ranks,
            tokens_per_step: 1000 * global_batch as u64,
            compute_dtype: "bf16".to_owned(),
            data: MeasuredData::Synthetic,
            parameters: 1_000_000,
            flops_per_token_full: 6e6,
            flops_per_token_causal: 5e6,
            executed_flops_per_step: 7_000_000_000,
            arena_bytes: 1 << 20,
            warmup_steps: 2,
            rank_rows: (0..ranks).map(row).collect(),
            steps,
            traffic: Vec::new(),
            loss: 4.5,
            energy: None,
            energy_missing: Some("not readable".to_owned()),
        }
    }

    pub(crate) fn predicted_at(step_s: f64) -> Option<Prediction> {
        Some(Prediction { step_s, exposed_s: 0.1 * step_s, peak_flop_per_s: 1e11 })
    }

    #[test]
    fn efficiency_of_strong_scaling_is_time_times_ranks() {
        let measured = [
            Measured { count: 1, repeats: vec![(1, record(1, 8, &[8.0, 8.0]))], prediction: None },
            Measured { count: 4, repeats: vec![(1, record(4, 8, &[2.5, 2.5]))], prediction: None },
        ];
        let points = points(&measured, 1);
        assert_eq!(points[0].efficiency.unwrap().value, 1.0);
        assert!((points[1].efficiency.unwrap().value - 0.8).abs() < 1e-12);
        assert_eq!((points[1].tokens_per_s, points[1].tokens_per_s_per_rank), (3200.0, 800.0));
        assert_eq!((points[1].utilization, &points[1].predicted), (None, &None));
    }

    #[test]
    fn efficiency_of_weak_scaling_is_time_and_its_spread_is_that_of_pairs() {
        // The machine is twice as slow in the second repeat: no spread of the efficiency.
        let measured = [
            Measured {
                count: 1,
                repeats: vec![(1, record(1, 2, &[1.0])), (2, record(1, 2, &[2.0]))],
                prediction: predicted_at(0.5),
            },
            Measured {
                count: 2,
                repeats: vec![(1, record(2, 4, &[1.25])), (2, record(2, 4, &[2.5]))],
                prediction: predicted_at(0.625),
            },
        ];
        let points = points(&measured, 1);
        let Efficiency { value, low, high } = points[1].efficiency.unwrap();
        assert!([value, low, high].iter().all(|efficiency| (efficiency - 0.8).abs() < 1e-12));
        let predicted = points[1].predicted.unwrap();
        assert!(
            (predicted.efficiency - 0.8).abs() < 1e-12 && (predicted.reached - 0.625 / 1.875).abs() < 1e-12
        );
        assert_eq!(points[1].repeat_medians_s, [1.25, 2.5]);
        // 4,000 tokens in 1.875 s, 6 MFLOP each, on two devices of 0.1 TFLOP/s.
        let mfu = points[1].utilization.unwrap();
        assert!((mfu.mfu_full - 4000.0 / 1.875 / 2.0 * 6e6 / 1e11).abs() < 1e-12);
        assert!(mfu.mfu_causal < mfu.mfu_full && mfu.hfu > 0.0);
    }

    #[test]
    fn efficiency_lies_within_its_spread() {
        // The first repeat was slow on one rank, the second on two.
        let measured = [
            Measured {
                count: 1,
                repeats: vec![(1, record(1, 2, &[1.25])), (2, record(1, 2, &[1.0]))],
                prediction: None,
            },
            Measured {
                count: 2,
                repeats: vec![(1, record(2, 4, &[1.25])), (2, record(2, 4, &[2.0]))],
                prediction: None,
            },
        ];
        let Efficiency { value, low, high } = points(&measured, 1)[1].efficiency.unwrap();
        assert_eq!((low, value, high), (0.5, 0.75, 1.0));
    }

    #[test]
    fn the_parts_of_a_step_add_up_to_its_mean() {
        let measured =
            [Measured { count: 1, repeats: vec![(1, record(2, 2, &[1.0, 3.0]))], prediction: None }];
        let point = &points(&measured, 1)[0];
        let Breakdown { compute_s, exposed_s, data_s, other_s } = point.breakdown;
        assert!((compute_s + exposed_s + data_s + other_s - 2.0).abs() < 1e-12);
        assert!((point.exposed_share - 0.1).abs() < 1e-12 && (other_s - 0.1).abs() < 1e-12);
        assert_eq!(point.hosts, ["node0"]);
    }

    #[test]
    fn without_the_smallest_point_there_is_no_efficiency_and_with_a_gap_no_energy() {
        let energy = |joules: f64| {
            let source = "RAPL".to_owned();
            Some(Energy { source, joules, seconds: 2.0, devices: 1, sm_clock_mhz: None })
        };
        let with = |joules| PointRecord { energy: energy(joules), ..record(2, 2, &[1.0, 1.0]) };
        let both = vec![(1, with(400.0)), (2, with(200.0))];
        let point = |repeats| points(&[Measured { count: 2, repeats, prediction: None }], 1)[0].clone();
        let measured = point(both);
        assert_eq!(measured.efficiency, None);
        let energy = measured.energy.unwrap();
        assert!((energy.joules_per_token - 0.075).abs() < 1e-12 && energy.watts == 150.0);
        assert_eq!(point(vec![(1, with(400.0)), (2, record(2, 2, &[1.0]))]).energy, None);
    }
}
