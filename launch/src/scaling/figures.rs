//! The figures of the page: what is plotted against what.

use tisserand_runtime::log::units;

use super::report::{Point, Report};
use crate::plot::axis::Axis;
use crate::plot::bars::{self, Bar, Part};
use crate::plot::lines::{self, Series, Spot, Stroke};
use crate::plot::{BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION};

/// A figure with what stands under it.
pub struct Figure {
    /// SVG.
    pub svg: String,
    /// What a reader must know.
    pub caption: String,
}

/// Every figure for which there is something to show.
pub fn figures(report: &Report) -> Vec<Figure> {
    if report.points.is_empty() {
        return bandwidth(report).into_iter().collect();
    }
    let always = [efficiency(report), throughput(report), breakdown(report)];
    always.into_iter().chain(bandwidth(report)).collect()
}

/// Ticks at the measured points alone.
fn counts(report: &Report) -> Axis {
    let values: Vec<f64> = report.points.iter().map(|point| point.count as f64).collect();
    Axis::log(&report.sweep.unit, &values, |value| format!("{value:.0}"))
}

fn series(
    report: &Report,
    name: &str,
    color: &'static str,
    stroke: Stroke,
    y: impl Fn(&Point) -> Option<f64>,
    spread: impl Fn(&Point) -> Option<[f64; 2]>,
) -> Series {
    let spot = |point: &Point| Some(Spot { x: point.count as f64, y: y(point)?, spread: spread(point) });
    let spots = report.points.iter().filter_map(spot).collect();
    Series { name: name.to_owned(), color, stroke, spots }
}

fn largest(series: &[Series]) -> f64 {
    let highest = |spot: &Spot| spot.spread.map_or(spot.y, |[_, high]| high.max(spot.y));
    series.iter().flat_map(|line| &line.spots).map(highest).fold(0.0, f64::max)
}

fn smallest(series: &[Series]) -> f64 {
    let lowest = |spot: &Spot| spot.spread.map_or(spot.y, |[low, _]| low.min(spot.y));
    series.iter().flat_map(|line| &line.spots).map(lowest).fold(f64::INFINITY, f64::min)
}

/// A number for a tick: without decimals that are zero.
fn short(written: &str) -> String {
    let (number, unit) =
        written.split_at(written.find(|c: char| c.is_alphabetic() || c == ' ').unwrap_or(written.len()));
    let number =
        if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number };
    if number == "0" { number.to_owned() } else { format!("{number}{unit}") }
}

fn efficiency(report: &Report) -> Figure {
    let measured = |point: &Point| Some(100.0 * point.efficiency?.value);
    let spread = |point: &Point| {
        let of = point.efficiency?;
        Some([100.0 * of.low, 100.0 * of.high])
    };
    let predicted = |point: &Point| Some(100.0 * point.predicted?.efficiency);
    let mut all = vec![
        series(report, "ideal", GREY, Stroke::Dotted, |_| Some(100.0), |_| None),
        series(report, "predicted", VERMILION, Stroke::Dashed, predicted, |_| None),
        series(report, "measured", BLUE, Stroke::Measured, measured, spread),
    ];
    all.retain(|line| !line.spots.is_empty());
    let y = Axis::linear("efficiency, %", largest(&all), |value| format!("{value:.0}"));
    let caption = format!(
        "Efficiency of {} scaling: tokens per second and rank, relative to the smallest point. Bars: smallest and largest \
         over {} repeat{}, each against the smallest point of the same repeat.",
        report.sweep.kind.name(),
        report.sweep.repeats,
        if report.sweep.repeats == 1 { "" } else { "s" },
    );
    Figure { svg: lines::draw("Efficiency against ranks", &counts(report), &y, &all), caption }
}

fn throughput(report: &Report) -> Figure {
    let first = &report.points[0];
    let (base, count) = (first.tokens_per_s, first.count as f64);
    let measured = |point: &Point| Some(point.tokens_per_s);
    let spread = |point: &Point| {
        let of = |step_s: f64| point.tokens_per_step as f64 / step_s;
        Some([of(point.step_s.q3), of(point.step_s.q1)])
    };
    let ideal = |point: &Point| Some(base * point.count as f64 / count);
    let mut all = vec![
        series(report, "ideal", GREY, Stroke::Dotted, ideal, |_| None),
        series(report, "measured", BLUE, Stroke::Measured, measured, spread),
    ];
    let predicted = |point: &Point| Some(point.tokens_per_step as f64 / point.predicted?.step_s);
    let line = series(report, "predicted", VERMILION, Stroke::Dashed, predicted, |_| None);
    // A prediction for another machine would only flatten what was measured.
    if !line.spots.is_empty() && largest(std::slice::from_ref(&line)) < 3.0 * largest(&all) {
        all.push(line);
    }
    // Both axes logarithmic: what is proportional to the ranks is a straight line.
    let y = Axis::decades("tokens/s", smallest(&all), largest(&all), |rate| short(&units::rate(rate)));
    let caption = "Tokens per second of all ranks. Bars: quartiles of the steps. Ideal: the smallest point, times \
                   the ranks. Both axes are logarithmic.";
    let svg = lines::draw("Tokens per second against ranks", &counts(report), &y, &all);
    Figure { svg, caption: caption.to_owned() }
}

fn breakdown(report: &Report) -> Figure {
    let part = |name, color, ink| Part { name, color, ink };
    let parts = [
        part("compute", BLUE, "#ffffff"),
        part("exposed", ORANGE, "#222222"),
        part("data", GREEN, "#ffffff"),
        part("other", PURPLE, "#222222"),
    ];
    let bar = |point: &Point| {
        let of = point.breakdown;
        let name = format!("{}", point.count);
        Bar { name, values: vec![of.compute_s, of.exposed_s, of.data_s, of.other_s] }
    };
    let bars: Vec<Bar> = report.points.iter().map(bar).collect();
    let highest = bars.iter().map(|bar| bar.values.iter().sum::<f64>()).fold(0.0, f64::max);
    let y = Axis::linear("mean step", highest, |seconds| short(&units::period(seconds)));
    let written = |value: f64, sum: f64| format!("{:.1} %", 100.0 * value / sum);
    let svg = bars::draw("Where a step's time goes", &report.sweep.unit, &y, &parts, &bars, written);
    let caption = "Where the time of a step goes, mean over all ranks and measured steps. Exposed: waiting for \
                   collectives that no computation hides. Parts without a number are too small for one.";
    Figure { svg, caption: caption.to_owned() }
}

fn bandwidth(report: &Report) -> Option<Figure> {
    let colors = [BLUE, VERMILION, GREEN];
    let gigabytes = |bytes_per_s: f64| bytes_per_s / 1e9;
    let all: Vec<Series> = report
        .bandwidth
        .iter()
        .zip(colors.into_iter().cycle())
        .map(|(record, color)| {
            let spot = |row: &super::record::BandwidthRow| {
                // The longest time is the lowest bandwidth.
                let at = |seconds: f64| gigabytes(row.bus_bytes_per_s) * row.seconds.median / seconds;
                let spread = Some([at(row.seconds.q3), at(row.seconds.q1)]);
                Spot { x: row.payload_bytes as f64, y: gigabytes(row.bus_bytes_per_s), spread }
            };
            let name = format!("{}, {} ranks", record.axis, record.ranks);
            Series { name, color, stroke: Stroke::Measured, spots: record.sizes.iter().map(spot).collect() }
        })
        .filter(|line| !line.spots.is_empty())
        .collect();
    let longest = all.iter().max_by_key(|line| line.spots.len())?;
    let sizes: Vec<f64> = longest.spots.iter().map(|spot| spot.x).collect();
    let x = Axis::log("bytes of each rank", &sizes, |bytes| short(&units::bytes(bytes as u64)));
    let y = Axis::linear("bus bandwidth, GB/s", largest(&all), |speed| short(&units::three_digits(speed)));
    let caption = format!(
        "All-reduce at {}: bus bandwidth, payload / time × 2 (n − 1) / n, GB = 10⁹ bytes. Medians; bars: quartiles.",
        report.sweep.named(report.sweep.largest())
    );
    Some(Figure { svg: lines::draw("Bus bandwidth of all-reduce by size", &x, &y, &all), caption })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_have_no_decimals_that_are_zero() {
        let written = ["0.00", "0.00 µs", "50.0 ms", "64.0 KiB", "1.00 MiB", "0.20", "100", "10.0k", "2.50"];
        let short_ones = ["0", "0", "50 ms", "64 KiB", "1 MiB", "0.2", "100", "10k", "2.5"];
        assert_eq!(written.map(short), short_ones);
    }
}
