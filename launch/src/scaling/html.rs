//! The page.

use std::fmt::Write;

use tisserand_runtime::log::units;

use super::definitions::DEFINITIONS;
use super::environment::{Environment, Gpu};
use super::figures::figures;
use super::report::{Point, Report};
use crate::plot::page;
use crate::plot::svg::escape;

/// The page's text.
pub fn report(report: &Report) -> String {
    let title = format!("{}: {} scaling", report.name, report.sweep.kind.name());
    let mut body = summary(report);
    body += &failures(report);
    body += &points(report);
    for figure in figures(report) {
        body += &page::figure(&figure.svg, &figure.caption);
    }
    body += &bandwidth(report);
    body += &traffic(report);
    body += &definitions();
    body += &environment(&report.environment);
    body += &run_file(report);
    page::page(&title, &body)
}

fn summary(report: &Report) -> String {
    let (sweep, model) = (&report.sweep, &report.model);
    let program = &report.environment.program;
    let mut text = format!(
        "{} parameters, {} tokens to a sequence, {}. {} timed steps after {} warm-up steps in each of {} repeats. \
         Begun {}, tisserand {}.",
        units::count(model.parameters as u64),
        model.seq_len,
        model.compute_dtype,
        sweep.steps,
        sweep.warmup,
        sweep.repeats,
        report.environment.time,
        program.named(),
    );
    if let (Some(profile), Some(peak)) = (&model.profile, model.peak_flop_per_s) {
        let _ = write!(
            text,
            " MFU and predictions: profile {profile}, peak {} per device.",
            units::flop_rate(peak / 1e9)
        );
    }
    let mut page = format!("<p>{}</p>\n", escape(&text));
    for note in &report.notes {
        page += &format!("<p class=\"failed\">{}</p>\n", escape(note));
    }
    page
}

fn failures(report: &Report) -> String {
    let each = report.failures.iter().map(|failure| {
        let (what, lines) =
            (format!("{}: {} ({})", failure.turn, failure.how, failure.log), failure.last_lines.join("\n"));
        format!("<div class=\"failed\"><p>Failed: {}</p><pre>{}</pre></div>\n", escape(&what), escape(&lines))
    });
    each.collect()
}

/// A table; `class` is "words" for text.
fn table(class: &str, head: &[&str], rows: &[Vec<String>]) -> String {
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| -> String {
        cells.map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect()
    };
    let mut text = format!("<div class=\"wide\"><table class=\"{class}\">\n");
    if !head.is_empty() {
        text += &format!("<thead><tr>{}</tr></thead>\n", cells("th", &mut head.iter().copied()));
    }
    text += "<tbody>\n";
    for row in rows {
        text += &format!("<tr>{}</tr>\n", cells("td", &mut row.iter().map(String::as_str)));
    }
    text + "</tbody>\n</table></div>\n"
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(String::new, |share| format!("{:.1}", 100.0 * share))
}

fn points(report: &Report) -> String {
    let mut head = vec![
        "ranks",
        "replicate × shard × tp",
        "batch",
        "step",
        "quartiles",
        "extremes",
        "tokens/s",
        "per rank",
    ];
    if report.sweep.unit == "nodes" {
        head.insert(0, "nodes");
    }
    head.extend([
        "MFU, full %",
        "MFU, causal %",
        "HFU %",
        "exposed %",
        "efficiency %",
        "spread",
        "predicted %",
    ]);
    head.extend(["of predicted %", "J/token", "W"]);
    let rows: Vec<Vec<String>> = report.points.iter().map(|point| point_row(report, point)).collect();
    format!("<h2>Points</h2>\n{}", table("", &head, &rows))
}

fn point_row(report: &Report, point: &Point) -> Vec<String> {
    let (step, mesh) = (&point.step_s, &point.mesh);
    let between = |low: f64, high: f64| format!("{} to {}", units::period(low), units::period(high));
    let (of, efficiency, energy) = (point.utilization, point.efficiency, point.energy.as_ref());
    let mut row = vec![
        point.ranks.to_string(),
        format!("{} × {} × {}, ZeRO {}", mesh.dp_replicate, mesh.dp_shard, mesh.tp, mesh.zero),
        point.global_batch.to_string(),
        units::period(step.median),
        between(step.q1, step.q3),
        between(step.min, step.max),
        units::rate(point.tokens_per_s),
        units::rate(point.tokens_per_s_per_rank),
        percent(of.map(|of| of.mfu_full)),
        percent(of.map(|of| of.mfu_causal)),
        percent(of.map(|of| of.hfu)),
        percent(Some(point.exposed_share)),
        percent(efficiency.map(|of| of.value)),
        efficiency.map_or_else(String::new, |of| format!("{:.1} to {:.1}", 100.0 * of.low, 100.0 * of.high)),
        percent(point.predicted.map(|of| of.efficiency)),
        percent(point.predicted.map(|of| of.reached)),
        energy.map_or_else(String::new, |of| units::three_digits(of.joules_per_token)),
        energy.map_or_else(String::new, |of| format!("{:.0}", of.watts)),
    ];
    if report.sweep.unit == "nodes" {
        row.insert(0, point.count.to_string());
    }
    row
}

fn bandwidth(report: &Report) -> String {
    let row = |axis: &str, ranks: usize, row: &super::record::BandwidthRow| {
        vec![
            axis.to_owned(),
            ranks.to_string(),
            units::bytes(row.payload_bytes as u64),
            units::period(row.seconds.median),
            format!("{} to {}", units::period(row.seconds.q1), units::period(row.seconds.q3)),
            units::three_digits(row.algorithm_bytes_per_s / 1e9),
            units::three_digits(row.bus_bytes_per_s / 1e9),
        ]
    };
    let records = report.bandwidth.iter();
    let rows: Vec<Vec<String>> = records
        .flat_map(|record| record.sizes.iter().map(move |size| row(&record.axis, record.ranks, size)))
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let head = ["axis", "ranks", "payload", "time", "quartiles", "algorithm GB/s", "bus GB/s"];
    format!("<h2>All-reduce by size</h2>\n{}", table("", &head, &rows))
}

/// What a rank calls and sends in a step at each point.
fn traffic(report: &Report) -> String {
    let row = |point: &Point, row: &super::record::TrafficRow| {
        let bytes = |bytes: f64| units::bytes(bytes.round() as u64);
        vec![
            point.ranks.to_string(),
            row.axis.clone(),
            row.kind.clone(),
            units::three_digits(row.calls_per_step),
            bytes(row.payload_bytes_per_step),
            bytes(row.sent_bytes_per_step),
            units::three_digits(row.sent_bytes_per_step / point.step_s.median / 1e9),
        ]
    };
    let points = report.points.iter();
    let rows: Vec<Vec<String>> =
        points.flat_map(|point| point.traffic.iter().map(move |traffic| row(point, traffic))).collect();
    if rows.is_empty() {
        return String::new();
    }
    let head = ["ranks", "axis", "collective", "calls", "payload", "sent (ring)", "sent GB/s over the step"];
    format!("<h2>Communication of a rank in a step</h2>\n{}", table("", &head, &rows))
}

fn definitions() -> String {
    let rows: Vec<Vec<String>> =
        DEFINITIONS.iter().map(|of| vec![of.name.to_owned(), of.text.to_owned()]).collect();
    format!("<h2>Definitions</h2>\n{}", table("words", &[], &rows))
}

fn environment(environment: &Environment) -> String {
    let Environment { program, machine, .. } = environment;
    let or_blank = |text: &Option<String>| text.clone().unwrap_or_default();
    let mut rows: Vec<[String; 2]> = [
        ("begun", environment.time.clone()),
        ("command line", environment.command_line.join(" ")),
        ("version", program.version.clone()),
        ("commit", program.commit.clone().unwrap_or_else(|| "unknown".to_owned())),
        ("build", format!("{}, features: {}", program.profile, program.features.join(" "))),
        ("compiler", or_blank(&program.rustc)),
        ("host", machine.host.clone()),
        ("system", or_blank(&machine.system)),
        ("kernel", or_blank(&machine.kernel)),
        ("processor", format!("{}, {} usable", or_blank(&machine.cpu), machine.cpus)),
        ("governor", or_blank(&machine.cpu_governor)),
        (
            "power limit of a package",
            machine.cpu_power_limit_w.map_or_else(String::new, |watts| format!("{watts:.0} W")),
        ),
        ("memory", machine.memory_bytes.map_or_else(String::new, units::bytes)),
        ("network", environment.network.join("; ")),
    ]
    .map(|(name, value)| [name.to_owned(), value])
    .to_vec();
    rows.extend(environment.gpus.iter().enumerate().map(|(i, gpu)| [format!("GPU {i}"), gpu_text(gpu)]));
    rows.extend(environment.variables.iter().map(|(name, value)| [name.clone(), value.clone()]));
    let rows: Vec<Vec<String>> = rows.into_iter().map(Vec::from).collect();
    format!("<h2>Environment</h2>\n<p>Of the driver's machine.</p>\n{}", table("words", &[], &rows))
}

fn gpu_text(gpu: &Gpu) -> String {
    let number = |value: Option<f64>, unit: &str| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0} {unit}"))
    };
    format!(
        "{}, driver {}, SM clock at most {}, memory clock at most {}, application clock {}, power limit {} \
         (default {})",
        gpu.name,
        gpu.driver_version,
        number(gpu.clocks_max_sm, "MHz"),
        number(gpu.clocks_max_memory, "MHz"),
        number(gpu.clocks_applications_graphics, "MHz"),
        number(gpu.power_limit, "W"),
        number(gpu.power_default_limit, "W"),
    )
}

fn run_file(report: &Report) -> String {
    let sweep = &report.sweep;
    let sets: Vec<String> = sweep
        .counts
        .iter()
        .map(|&count| {
            let sets = sweep.sets_of(count).iter().map(|set| format!(" --set '{set}'")).collect::<String>();
            format!("{}:{sets}", sweep.named(count))
        })
        .collect();
    let hosts: Vec<String> = report
        .points
        .iter()
        .map(|point| {
            format!("{}: {} ({})", sweep.named(point.count), point.hosts.join(" "), point.devices.join("; "))
        })
        .collect();
    format!(
        "<h2>Machines</h2>\n<pre>{}</pre>\n<h2>Run file</h2>\n<p>{}, and over it at</p>\n<pre>{}</pre>\n\
         <pre>{}</pre>\n",
        escape(&hosts.join("\n")),
        escape(&sweep.run_file_path),
        escape(&sets.join("\n")),
        escape(&sweep.run_file),
    )
}
