//! A table for a paper: `\input{scaling.tex}` in a document that loads booktabs.

use tisserand_runtime::log::units;

use super::report::{Point, Report};

/// The file's text.
pub fn report(report: &Report) -> String {
    let has_mfu = report.points.iter().any(|point| point.utilization.is_some());
    let has_prediction = report.points.iter().any(|point| point.predicted.is_some());
    let has_energy = report.points.iter().any(|point| point.energy.is_some());
    let mut columns = vec![
        column(if report.sweep.unit == "nodes" { "Nodes" } else { "" }, |point| point.count.to_string()),
        column("Ranks", |point| point.ranks.to_string()),
        column("Batch", |point| point.global_batch.to_string()),
        column("Step (s)", |point| fixed(point.step_s.median)),
        column("Quartiles (s)", |point| format!("{}--{}", fixed(point.step_s.q1), fixed(point.step_s.q3))),
        column("Tokens/s", |point| format!("{:.0}", point.tokens_per_s)),
        column("per rank", |point| format!("{:.0}", point.tokens_per_s_per_rank)),
    ];
    if has_mfu {
        columns.push(column("MFU (\\%)", |point| percent(point.utilization.map(|of| of.mfu_full))));
        columns.push(column("causal (\\%)", |point| percent(point.utilization.map(|of| of.mfu_causal))));
    }
    columns.push(column("Exposed (\\%)", |point| percent(Some(point.exposed_share))));
    columns.push(column("Efficiency (\\%)", |point| percent(point.efficiency.map(|of| of.value))));
    columns.push(column("Range (\\%)", range));
    if has_prediction {
        columns.push(column("Predicted (\\%)", |point| percent(point.predicted.map(|of| of.efficiency))));
    }
    if has_energy {
        columns.push(column("J/token", |point| {
            point.energy.as_ref().map_or_else(String::new, |of| units::three_digits(of.joules_per_token))
        }));
    }
    columns.retain(|column| !column.head.is_empty());
    let row = |cells: Vec<String>| format!("    {} \\\\\n", cells.join(" & "));
    let head = row(columns.iter().map(|column| column.head.to_owned()).collect());
    let body: String = report
        .points
        .iter()
        .map(|point| row(columns.iter().map(|column| (column.cell)(point)).collect()))
        .collect();
    format!(
        "% Made by tisserand bench scaling; needs \\usepackage{{booktabs}}.\n\
         \\begin{{table}}\n  \\centering\n  \\caption{{{}}}\n  \\label{{tab:scaling-{}}}\n  \
         \\begin{{tabular}}{{{}}}\n    \
         \\toprule\n{head}    \\midrule\n{body}    \\bottomrule\n  \\end{{tabular}}\n\\end{{table}}\n",
        caption(report, has_mfu, has_prediction),
        report.sweep.kind.name(),
        "r".repeat(columns.len()),
    )
}

struct Column {
    head: &'static str,
    cell: fn(&Point) -> String,
}

fn column(head: &'static str, cell: fn(&Point) -> String) -> Column {
    Column { head, cell }
}

fn range(point: &Point) -> String {
    point.efficiency.map_or_else(String::new, |of| format!("{:.1}--{:.1}", 100.0 * of.low, 100.0 * of.high))
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(String::new, |share| format!("{:.1}", 100.0 * share))
}

/// Seconds with four digits.
fn fixed(seconds: f64) -> String {
    let decimals = (3 - seconds.abs().max(1e-9).log10().floor() as i32).clamp(0, 9) as usize;
    format!("{seconds:.decimals$}")
}

/// The definitions that a reader of the table needs.
fn caption(report: &Report, has_mfu: bool, has_prediction: bool) -> String {
    let (sweep, model) = (&report.sweep, &report.model);
    let batch = match sweep.kind {
        super::sweep::Kind::Weak => "the global batch grows with the ranks",
        super::sweep::Kind::Strong => "the global batch is constant",
    };
    let mut caption = format!(
        "{} scaling of {}: {} parameters, sequences of {} tokens, {}; {batch}. Step: median of {} steps in each of {} \
         repeats after {} warm-up steps. Efficiency: tokens per second and rank relative to the smallest point; range: \
         smallest and largest over repeats. Exposed: share of a step spent waiting for collectives, mean over ranks.",
        if sweep.kind == super::sweep::Kind::Weak { "Weak" } else { "Strong" },
        escape(&report.name),
        units::count(model.parameters as u64),
        model.seq_len,
        escape(&model.compute_dtype),
        sweep.steps,
        sweep.repeats,
        sweep.warmup,
    );
    if let (true, Some(peak)) = (has_mfu, model.peak_flop_per_s) {
        caption += &format!(
            " MFU: model FLOPs ($6N + 12Lhs$; causal: $6N + 6Lhs$) over a peak of {} per device.",
            units::flop_rate(peak / 1e9)
        );
    }
    if has_prediction {
        caption += " Predicted: efficiency by the planner.";
    }
    caption
}

/// Characters that mean something in LaTeX, spelled so that they mean themselves.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => out.extend(['\\', c]),
            '~' => out.push_str("\\textasciitilde{}"),
            '^' => out.push_str("\\textasciicircum{}"),
            '\\' => out.push_str("\\textbackslash{}"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_themselves_and_seconds_have_four_digits() {
        assert_eq!(escape("a_b & 50%\\"), "a\\_b \\& 50\\%\\textbackslash{}");
        assert_eq!([12.3456, 0.0123456, 1234.5].map(fixed), ["12.35", "0.01235", "1234"]);
    }
}
