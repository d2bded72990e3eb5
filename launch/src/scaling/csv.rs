//! One row per point, every digit, units in the names of the columns. Blank: the value does not exist.

use super::report::{Point, Report};

/// The file's text.
pub fn report(report: &Report) -> String {
    let mut text = COLUMNS.map(|(name, _)| name).join(",");
    text.push('\n');
    for point in &report.points {
        let cells: Vec<String> = COLUMNS.iter().map(|(_, cell)| quoted(&cell(report, point))).collect();
        text += &cells.join(",");
        text.push('\n');
    }
    text
}

type Cell = fn(&Report, &Point) -> String;

const COLUMNS: [(&str, Cell); 35] = [
    ("name", |report, _| report.name.clone()),
    ("kind", |report, _| report.sweep.kind.name().to_owned()),
    ("unit", |report, _| report.sweep.unit.clone()),
    ("count", |_, point| point.count.to_string()),
    ("ranks", |_, point| point.ranks.to_string()),
    ("dp_replicate", |_, point| point.mesh.dp_replicate.to_string()),
    ("dp_shard", |_, point| point.mesh.dp_shard.to_string()),
    ("tp", |_, point| point.mesh.tp.to_string()),
    ("zero", |_, point| point.mesh.zero.to_string()),
    ("global_batch", |_, point| point.global_batch.to_string()),
    ("micro_batch", |_, point| point.micro_batch.to_string()),
    ("tokens_per_step", |_, point| point.tokens_per_step.to_string()),
    ("steps", |_, point| point.step_s.count.to_string()),
    ("step_median_s", |_, point| point.step_s.median.to_string()),
    ("step_q1_s", |_, point| point.step_s.q1.to_string()),
    ("step_q3_s", |_, point| point.step_s.q3.to_string()),
    ("step_min_s", |_, point| point.step_s.min.to_string()),
    ("step_max_s", |_, point| point.step_s.max.to_string()),
    ("tokens_per_s", |_, point| point.tokens_per_s.to_string()),
    ("tokens_per_s_per_rank", |_, point| point.tokens_per_s_per_rank.to_string()),
    ("mfu_full", |_, point| number(point.utilization.map(|of| of.mfu_full))),
    ("mfu_causal", |_, point| number(point.utilization.map(|of| of.mfu_causal))),
    ("hfu", |_, point| number(point.utilization.map(|of| of.hfu))),
    ("efficiency", |_, point| number(point.efficiency.map(|of| of.value))),
    ("efficiency_low", |_, point| number(point.efficiency.map(|of| of.low))),
    ("efficiency_high", |_, point| number(point.efficiency.map(|of| of.high))),
    ("predicted_step_s", |_, point| number(point.predicted.map(|of| of.step_s))),
    ("predicted_efficiency", |_, point| number(point.predicted.map(|of| of.efficiency))),
    ("exposed_share", |_, point| point.exposed_share.to_string()),
    ("compute_s", |_, point| point.breakdown.compute_s.to_string()),
    ("exposed_s", |_, point| point.breakdown.exposed_s.to_string()),
    ("data_s", |_, point| point.breakdown.data_s.to_string()),
    ("other_s", |_, point| point.breakdown.other_s.to_string()),
    ("joules_per_token", |_, point| number(point.energy.as_ref().map(|of| of.joules_per_token))),
    ("watts", |_, point| number(point.energy.as_ref().map(|of| of.watts))),
];

fn number(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// As RFC 4180 wants it.
fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}
