//! The table on standard output.

use tisserand_runtime::log::units;

use super::record::BandwidthRecord;
use super::report::{Point, Report};

/// The whole report for a terminal.
pub fn report(report: &Report) -> String {
    let mut text = head(report);
    text += &points(report);
    for record in &report.bandwidth {
        text += &bandwidth(record, report);
    }
    for note in &report.notes {
        text += &format!("note: {note}\n");
    }
    for failure in &report.failures {
        text += &format!("failed: {}: {} ({})\n", failure.turn, failure.how, failure.log);
    }
    text
}

fn head(report: &Report) -> String {
    let (sweep, model) = (&report.sweep, &report.model);
    let against = match (&model.profile, model.peak_flop_per_s) {
        (Some(profile), Some(peak)) => format!(", peak {} ({profile})", units::flop_rate(peak / 1e9)),
        _ => String::new(),
    };
    format!(
        "{}: {} scaling of {} parameters, {} tokens to a sequence, {}{against}\n\
         {} warm-up and {} timed steps, {} repeat{} of every point, ranks started by {}\n\n",
        report.name,
        sweep.kind.name(),
        units::count(model.parameters as u64),
        model.seq_len,
        model.compute_dtype,
        sweep.warmup,
        sweep.steps,
        sweep.repeats,
        if sweep.repeats == 1 { "" } else { "s" },
        sweep.launcher,
    )
}

const COLUMNS: [&str; 13] = [
    "ranks",
    "batch",
    "step",
    "quartiles",
    "tokens/s",
    "per rank",
    "MFU",
    "causal",
    "exposed",
    "eff.",
    "spread",
    "predicted",
    "J/token",
];
const WIDTHS: [usize; 13] = [6, 7, 10, 20, 10, 10, 8, 8, 9, 8, 15, 11, 9];

fn points(report: &Report) -> String {
    let line = |cells: &[String]| {
        let cells = cells.iter().zip(WIDTHS).map(|(cell, width)| format!("{cell:>width$}"));
        format!("{}\n", cells.collect::<String>().trim_end())
    };
    let of_nodes = report.sweep.unit == "nodes";
    let first = |cell: &str| if of_nodes { format!("{cell:>6}") } else { String::new() };
    let mut text = first("nodes") + &line(&COLUMNS.map(str::to_owned));
    for point in &report.points {
        text += &(first(&point.count.to_string()) + &line(&cells(point)));
    }
    text
}

fn cells(point: &Point) -> [String; 13] {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let or_blank = |cell: Option<String>| cell.unwrap_or_else(|| "-".to_owned());
    let (utilization, efficiency) = (point.utilization, point.efficiency);
    [
        point.ranks.to_string(),
        point.global_batch.to_string(),
        units::period(point.step_s.median),
        format!("{}..{}", units::period(point.step_s.q1), units::period(point.step_s.q3)),
        units::rate(point.tokens_per_s),
        units::rate(point.tokens_per_s_per_rank),
        or_blank(utilization.map(|of| percent(of.mfu_full))),
        or_blank(utilization.map(|of| percent(of.mfu_causal))),
        percent(point.exposed_share),
        or_blank(efficiency.map(|of| percent(of.value))),
        or_blank(efficiency.map(|of| format!("{:.1}..{:.1} %", 100.0 * of.low, 100.0 * of.high))),
        or_blank(point.predicted.map(|of| percent(of.efficiency))),
        or_blank(point.energy.as_ref().map(|energy| units::three_digits(energy.joules_per_token))),
    ]
}

fn bandwidth(record: &BandwidthRecord, report: &Report) -> String {
    let at = report.sweep.named(report.sweep.largest());
    let mut text = format!(
        "\nall-reduce along {}, {} ranks ({} of the whole run), {}\n{:>12}{:>12}{:>22}{:>14}\n",
        record.axis, record.ranks, at, record.dtype, "payload", "time", "quartiles", "bus GB/s"
    );
    for row in &record.sizes {
        text += &format!(
            "{:>12}{:>12}{:>22}{:>14}\n",
            units::bytes(row.payload_bytes as u64),
            units::period(row.seconds.median),
            format!("{}..{}", units::period(row.seconds.q1), units::period(row.seconds.q3)),
            units::three_digits(row.bus_bytes_per_s / 1e9),
        );
    }
    text
}
