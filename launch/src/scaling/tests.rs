//! The outputs of one report: every format says the same, and each is well-formed.

use super::assemble::tests::{predicted_at, record};
use super::assemble::{Measured, points};
use super::definitions::DEFINITIONS;
use super::environment::{Environment, Machine, Program};
use super::record::{BandwidthRecord, BandwidthRow, TrafficRow};
use super::report::{FORMAT, Failure, Model, Report};
use super::statistics::Summary;
use super::sweep::Kind;
use super::sweep::tests::example;
use super::{csv, html, tex, text};

/// Three points that scale ever less well, the largest with one repeat only.
fn report(with_profile: bool) -> Report {
    let sweep = example(Kind::Weak, &[1, 2, 4]);
    let times = [1.0, 1.1, 1.3];
    let measured: Vec<Measured> = sweep
        .counts
        .iter()
        .zip(times)
        .map(|(&count, seconds)| {
            let mut record = record(4 * count, 8 * count, &[seconds, 1.02 * seconds, 0.98 * seconds]);
            record.traffic = vec![TrafficRow {
                axis: "dp_shard".to_owned(),
                kind: "all_gather".to_owned(),
                calls_per_step: 12.0,
                payload_bytes_per_step: 1e6,
                sent_bytes_per_step: 7.5e5,
            }];
            let repeats = if count == 4 { vec![(2, record)] } else { vec![(1, record.clone()), (2, record)] };
            let prediction = predicted_at(0.8 + 0.05 * f64::from(count as u32)).filter(|_| with_profile);
            Measured { count, repeats, prediction }
        })
        .collect();
    let row = |bytes: usize| {
        BandwidthRow::new(16, bytes, Summary::of([1e-9 * bytes as f64, 2e-9 * bytes as f64]).unwrap())
    };
    Report {
        format: FORMAT,
        name: "tiny_run & <co>".to_owned(),
        model: Model {
            parameters: 1_000_000,
            seq_len: 1000,
            compute_dtype: "bf16".to_owned(),
            flops_per_token_full: 6e6,
            flops_per_token_causal: 5e6,
            profile: with_profile.then(|| "h100-sxm".to_owned()),
            peak_flop_per_s: with_profile.then_some(1e11),
        },
        points: points(&measured, 1),
        bandwidth: vec![BandwidthRecord {
            axis: "dp_shard".to_owned(),
            ranks: 16,
            dtype: "f32".to_owned(),
            sizes: vec![row(1 << 16), row(1 << 18)],
        }],
        failures: vec![Failure {
            turn: "4 nodes, repeat 1".to_owned(),
            how: "exit code 1".to_owned(),
            log: "scaling/logs/nodes-4-repeat-1.log".to_owned(),
            last_lines: vec!["error: rank 3: <out of memory>".to_owned()],
        }],
        notes: vec!["no energy: node0: not readable".to_owned()],
        environment: environment(),
        sweep,
    }
}

fn environment() -> Environment {
    Environment {
        time: "2026-11-26T10:00:00.000Z".to_owned(),
        command_line: vec!["tisserand".to_owned(), "bench".to_owned()],
        program: Program {
            version: "0.1.0".to_owned(),
            commit: Some("abc123".to_owned()),
            rustc: None,
            profile: "release".to_owned(),
            features: vec!["nccl".to_owned()],
        },
        machine: Machine {
            host: "node0".to_owned(),
            system: None,
            kernel: Some("6.1".to_owned()),
            cpu: None,
            cpus: 2,
            cpu_governor: None,
            cpu_power_limit_w: None,
            memory_bytes: None,
        },
        gpus: Vec::new(),
        network: vec!["Using network IB".to_owned()],
        variables: vec![("SLURM_JOB_ID".to_owned(), "7".to_owned())],
    }
}

#[test]
fn the_table_has_every_point_and_says_what_failed() {
    let text = text::report(&report(true));
    let row = text.lines().find(|line| line.trim_start().starts_with("4 ")).unwrap();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(cells[..5], ["4", "16", "32", "1.30", "s"], "{text}");
    assert!(row.contains("76.9 %") && row.contains("85.0 %"), "{text}");
    assert!(
        text.contains("failed: 4 nodes, repeat 1: exit code 1 (scaling/logs/nodes-4-repeat-1.log)"),
        "{text}"
    );
    assert!(text.contains("all-reduce along dp_shard, 16 ranks (4 nodes of the whole run), f32"), "{text}");
    assert!(text.contains("note: no energy: node0: not readable"), "{text}");
    assert!(text.lines().all(|line| line.len() <= 150), "{text}");
}

#[test]
fn json_reads_back_and_prints_the_same_table() {
    for with_profile in [true, false] {
        let report = report(with_profile);
        let json = serde_json::to_string(&report).unwrap();
        let read: Report = serde_json::from_str(&json).unwrap();
        assert_eq!(read, report);
        assert_eq!(text::report(&read), text::report(&report));
    }
}

#[test]
fn csv_has_a_row_for_each_point_and_blanks_for_what_does_not_exist() {
    let report = report(false);
    let text = csv::report(&report);
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows.len(), 1 + report.points.len());
    assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{text}");
    let cell = |row: usize, name: &str| rows[row][rows[0].iter().position(|head| *head == name).unwrap()];
    assert_eq!((cell(1, "name"), cell(1, "kind"), cell(3, "ranks")), ("tiny_run & <co>", "weak", "16"));
    assert_eq!(cell(2, "step_median_s").parse::<f64>().unwrap(), report.points[1].step_s.median);
    assert_eq!((cell(1, "mfu_full"), cell(1, "joules_per_token"), cell(1, "efficiency")), ("", "", "1"));
    let quoted = csv::report(&Report { name: "a, \"b\"".to_owned(), ..report });
    assert!(quoted.contains("\n\"a, \"\"b\"\"\",weak,"), "{quoted}");
}

#[test]
fn latex_is_a_booktabs_table_with_as_many_cells_as_columns() {
    for with_profile in [true, false] {
        let text = tex::report(&report(with_profile));
        let columns = text.split("\\begin{tabular}{").nth(1).unwrap().split('}').next().unwrap().len();
        let rows: Vec<&str> = text.lines().filter(|line| line.ends_with("\\\\")).collect();
        assert_eq!(rows.len(), 4, "{text}");
        assert!(rows.iter().all(|row| row.matches(" & ").count() + 1 == columns), "{text}");
        assert!(text.contains("\\toprule") && text.contains("\\midrule") && text.contains("\\bottomrule"));
        assert!(text.contains("of tiny\\_run \\& <co>: 1.00M parameters"), "{text}");
        assert_eq!(text.contains("MFU (\\%)"), with_profile);
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }
}

#[test]
fn the_page_is_well_formed_and_needs_nothing_else() {
    for with_profile in [true, false] {
        let page = html::report(&report(with_profile));
        let body = page.strip_prefix("<!DOCTYPE html>\n").unwrap();
        let document = roxmltree::Document::parse(body).unwrap_or_else(|error| panic!("{error}\n{page}"));
        let count = |name: &str| document.descendants().filter(|node| node.tag_name().name() == name).count();
        assert_eq!((count("svg"), count("figcaption"), count("script"), count("link")), (4, 4, 0, 0));
        assert!(!page.contains("src=") && !page.contains("url(") && !page.contains("NaN"));
        let texts: String =
            document.descendants().filter_map(|node| node.text()).collect::<Vec<_>>().join("\n");
        for said in [
            "tiny_run & <co>",
            "error: rank 3: <out of memory>",
            "abc123",
            "Using network IB",
            "SLURM_JOB_ID",
        ] {
            assert!(texts.contains(said), "{said}");
        }
        for definition in &DEFINITIONS {
            assert!(texts.contains(definition.name) && texts.contains(definition.text));
        }
    }
}

#[test]
fn a_sweep_of_which_nothing_is_left_still_has_its_page() {
    let nothing = Report { points: Vec::new(), bandwidth: Vec::new(), ..report(true) };
    let page = html::report(&nothing);
    roxmltree::Document::parse(page.strip_prefix("<!DOCTYPE html>\n").unwrap()).unwrap();
    assert_eq!(csv::report(&nothing).lines().count(), 1);
    assert!(text::report(&nothing).contains("failed: ") && tex::report(&nothing).contains("\\bottomrule"));
}

/// docs/scaling.md has the definitions word for word.
#[test]
fn the_page_of_the_documentation_defines_every_figure() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/scaling.md");
    let page = std::fs::read_to_string(path).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    for definition in &DEFINITIONS {
        let entry = format!("**{}.** {}", definition.name, definition.text);
        assert!(page.contains(&entry), "docs/scaling.md lacks: {entry}");
    }
}
