//! The losses of runs over their steps, and how far they lie apart: as lines and as a page.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tisserand_runtime::files::io_error;
use tisserand_runtime::{Error, Result};

use crate::plot::axis::Axis;
use crate::plot::lines::{self, Series, Spot, Stroke};
use crate::plot::{BLUE, GREEN, ORANGE, PURPLE, VERMILION, page};

/// A line has about so many values: more than pixels show nothing more.
const STRETCHES: u64 = 500;

/// Of the first run, the second, …, and again from the first on.
const COLORS: [&str; 5] = [BLUE, VERMILION, GREEN, PURPLE, ORANGE];

/// The losses of one run.
#[derive(Clone, PartialEq, Debug)]
pub struct Curve {
    /// How it is called.
    pub name: String,
    /// By step; of a step that was written twice the later.
    pub losses: BTreeMap<u64, f64>,
    /// Steps whose loss is no finite number.
    pub not_finite: usize,
}

impl Curve {
    /// From a run folder or a file of JSON lines, of which those count that have a step and a loss and are of type
    /// "step", if they have a type.
    ///
    /// # Errors
    /// A file that cannot be read, or without losses.
    pub fn read(path: &Path) -> Result<Self> {
        let file = if path.is_dir() { path.join("metrics.jsonl") } else { path.to_owned() };
        let text = std::fs::read_to_string(&file).map_err(|error| io_error("read", &file, &error))?;
        let mut curve = Curve { name: name_of(path), losses: BTreeMap::new(), not_finite: 0 };
        for line in text.lines() {
            curve.add(line);
        }
        if curve.losses.is_empty() {
            return Err(Error::input(format!(
                "{}: no step with a loss; hint: a run folder, its metrics.jsonl, or JSON lines with step and loss",
                file.display()
            )));
        }
        Ok(curve)
    }

    fn add(&mut self, line: &str) {
        let Ok(record) = serde_json::from_str::<Value>(line) else { return };
        let is_step = record.get("type").is_none_or(|kind| kind == "step");
        let (Some(step), Some(loss)) = (record.get("step").and_then(Value::as_u64), record.get("loss"))
        else {
            return;
        };
        match loss.as_f64() {
            _ if !is_step => {}
            Some(loss) => _ = self.losses.insert(step, loss),
            None => self.not_finite += 1,
        }
    }

    /// This curve less another one, at the steps that both have.
    ///
    /// # Errors
    /// There is none.
    pub fn less(&self, other: &Curve) -> Result<Curve> {
        let gap = |(step, loss): (&u64, &f64)| other.losses.get(step).map(|there| (*step, loss - there));
        let losses: BTreeMap<u64, f64> = self.losses.iter().filter_map(gap).collect();
        if losses.is_empty() {
            return Err(Error::input(format!(
                "{} and {} have no step in common; hint: log.every_steps = 1 for runs to be compared",
                self.name, other.name
            )));
        }
        Ok(Curve { name: format!("{} − {}", self.name, other.name), losses, not_finite: 0 })
    }

    /// In words: "b − a over 2000 steps: mean 0.0003, largest 0.0121 at step 17".
    pub fn summary(&self) -> String {
        let mean = self.losses.values().sum::<f64>() / self.losses.len() as f64;
        let largest = self.losses.iter().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()));
        let (step, largest) = largest.map_or((0, 0.0), |(step, gap)| (*step, *gap));
        let (name, count) = (&self.name, self.losses.len());
        let steps = if count == 1 { "step" } else { "steps" };
        format!("{name} over {count} {steps}: mean {mean:.3e}, largest {largest:.3e} at step {step}")
    }

    /// Means of stretches of `stretch` steps.
    fn spots(&self, stretch: u64) -> Vec<Spot> {
        let mut sums = BTreeMap::<u64, [f64; 3]>::new();
        for (step, loss) in &self.losses {
            let [count, steps, losses] = sums.entry(step / stretch).or_default();
            (*count, *steps, *losses) = (*count + 1.0, *steps + *step as f64, *losses + loss);
        }
        let mean =
            |[count, steps, losses]: [f64; 3]| Spot { x: steps / count, y: losses / count, spread: None };
        sums.into_values().map(mean).collect()
    }
}

/// A folder by its name, a file by its own without the ending.
fn name_of(path: &Path) -> String {
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    name.map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// The page: losses, and differences to the first curve.
pub fn page(curves: &[Curve], gaps: &[Curve]) -> String {
    let last = curves.iter().filter_map(|curve| curve.losses.keys().last()).max().copied().unwrap_or(1);
    let stretch = last.div_ceil(STRETCHES).max(1);
    let of = match stretch {
        1 => "Each step.".to_owned(),
        _ => format!("Means of {stretch} steps."),
    };
    let missing: usize = curves.iter().map(|curve| curve.not_finite).sum();
    let not_drawn = match missing {
        0 => String::new(),
        _ => format!(" {missing} losses are no finite numbers and are not drawn."),
    };
    let steps = Axis::between("step", 0.0, last as f64, |step| format!("{step:.0}"));
    let mut body = page::figure(&draw("loss", &steps, curves, stretch, 0), &(of.clone() + &not_drawn));
    if !gaps.is_empty() {
        let said: Vec<String> = gaps.iter().map(Curve::summary).collect();
        let caption = format!("{of} At the steps that both have. {}.", said.join("; "));
        body += &page::figure(&draw("difference of the losses", &steps, gaps, stretch, 1), &caption);
    }
    let names: Vec<&str> = curves.iter().map(|curve| curve.name.as_str()).collect();
    page::page(&format!("Loss: {}", names.join(", ")), &body)
}

/// The figure; `first` is the number of the first colour.
fn draw(label: &str, steps: &Axis, curves: &[Curve], stretch: u64, first: usize) -> String {
    let series: Vec<Series> = curves
        .iter()
        .zip(COLORS.iter().cycle().skip(first))
        .map(|(curve, color)| Series {
            name: curve.name.clone(),
            color,
            stroke: Stroke::Plain,
            spots: curve.spots(stretch),
        })
        .collect();
    let values = || series.iter().flat_map(|line| &line.spots).map(|spot| spot.y);
    let (least, most) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let losses = Axis::between(label, least, most, |value| written(value, most.abs().max(least.abs())));
    lines::draw(label, steps, &losses, &series)
}

/// A tick, beside others up to `largest`.
fn written(value: f64, largest: f64) -> String {
    if value.abs() < 1e-6 * largest {
        return "0".to_owned();
    }
    if largest < 1e-2 {
        return format!("{value:.1e}");
    }
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(name: &str, losses: &[(u64, f64)]) -> Curve {
        Curve { name: name.to_owned(), losses: losses.iter().copied().collect(), not_finite: 0 }
    }

    #[test]
    fn lines_of_steps_count_and_others_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peer.jsonl");
        let lines = [
            r#"{"type":"resume","step":0,"loss":9}"#,
            r#"{"type":"step","step":1,"loss":2.5,"other":1}"#,
            r#"{"type":"step","step":2,"loss":"nan"}"#,
            r#"{"type":"eval","step":2,"loss":7}"#,
            r#"{"step":3,"loss":2}"#,
            r#"{"type":"step","step":3,"loss":1.5}"#,
            r#"{"type":"run","losses":[1,2]}"#,
            r#"{"type":"step","st"#,
        ];
        std::fs::write(&path, lines.join("\n")).unwrap();
        let read = Curve::read(&path).unwrap();
        assert_eq!(read, Curve { not_finite: 1, ..curve("peer", &[(1, 2.5), (3, 1.5)]) });
        std::fs::write(&path, lines[0]).unwrap();
        let message = Curve::read(&path).unwrap_err().to_string();
        assert!(message.contains("peer.jsonl: no step with a loss; hint: "), "{message}");
        assert!(Curve::read(dir.path()).unwrap_err().to_string().contains("metrics.jsonl"));
    }

    #[test]
    fn differences_are_those_of_common_steps() {
        let a = curve("a", &[(1, 3.0), (2, 2.0), (4, 1.0)]);
        let b = curve("b", &[(2, 2.5), (3, 9.0), (4, 0.25)]);
        let gap = b.less(&a).unwrap();
        assert_eq!(gap, curve("b − a", &[(2, 0.5), (4, -0.75)]));
        assert_eq!(gap.summary(), "b − a over 2 steps: mean -1.250e-1, largest -7.500e-1 at step 4");
        assert!(a.less(&curve("c", &[(9, 1.0)])).unwrap_err().to_string().contains("no step in common"));
    }

    #[test]
    fn a_page_is_well_formed_and_long_runs_become_means() {
        let long: Vec<(u64, f64)> = (1..=2000).map(|step| (step, 5.0 / step as f64)).collect();
        let (a, b) = (curve("a & b", &long), curve("c", &long[..1500]));
        assert_eq!(a.spots(4).len(), 501);
        let text = page(&[a.clone(), b.clone()], &[b.less(&a).unwrap()]);
        let document = roxmltree::Document::parse_with_options(
            &text,
            roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() },
        )
        .unwrap();
        let lines = document.descendants().filter(|node| node.tag_name().name() == "polyline").count();
        assert_eq!(lines, 3);
        assert!(text.contains("Means of 4 steps.") && !text.contains("NaN") && !text.contains("inf"));
    }

    #[test]
    fn ticks_are_short() {
        assert_eq!([written(0.0, 1.0), written(2.5, 3.0), written(-1e-4, 2e-4)], ["0", "2.5", "-1.0e-4"]);
    }
}
