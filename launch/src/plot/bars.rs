//! Bars of parts that add up.

use super::axis::Axis;
use super::svg::{Anchor, Svg};
use super::{BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, lines};

/// A part of a bar that is lower than this has no number in it, pixels.
const WRITTEN_FROM: f64 = 13.0;

/// A part that every bar has.
#[derive(Clone, PartialEq, Debug)]
pub struct Part {
    /// Its name.
    pub name: &'static str,
    /// Its colour.
    pub color: &'static str,
    /// That of the number written on it.
    pub ink: &'static str,
}

/// One bar.
#[derive(Clone, PartialEq, Debug)]
pub struct Bar {
    /// What stands under it.
    pub name: String,
    /// By part, lowest first.
    pub values: Vec<f64>,
}

/// The figure; `label` names the horizontal axis, `written` is what stands in a part, of the value and its bar's sum.
pub fn draw(
    title: &str,
    label: &str,
    y: &Axis,
    parts: &[Part],
    bars: &[Bar],
    written: impl Fn(f64, f64) -> String,
) -> String {
    let mut svg = Svg::new(WIDTH, HEIGHT, title);
    lines::horizontals(&mut svg, y);
    let (bottom, space) = (HEIGHT - BOTTOM, (WIDTH - RIGHT - LEFT) / bars.len().max(1) as f64);
    let width = (0.6 * space).min(90.0);
    for (i, bar) in bars.iter().enumerate() {
        let middle = LEFT + (i as f64 + 0.5) * space;
        let sum: f64 = bar.values.iter().sum();
        let mut below = 0.0;
        for (part, value) in parts.iter().zip(&bar.values) {
            let [top, foot] = [below + value, below].map(|up| bottom + y.place(up) * (TOP - bottom));
            svg.rect([middle - width / 2.0, top], [width, foot - top], part.color);
            if foot - top >= WRITTEN_FROM {
                let place = [middle, (top + foot) / 2.0 + 4.0];
                svg.colored_text(place, Anchor::Middle, part.ink, &written(*value, sum));
            }
            below += value;
        }
        svg.text([middle, bottom + 19.0], Anchor::Middle, &bar.name);
    }
    svg.text([(LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 8.0], Anchor::Middle, label);
    for (i, part) in parts.iter().rev().enumerate() {
        let (left, top) = (WIDTH - RIGHT + 16.0, TOP + 20.0 * i as f64);
        svg.rect([left, top], [12.0, 12.0], part.color);
        svg.text([left + 18.0, top + 10.0], Anchor::Start, part.name);
    }
    svg.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_parts_have_no_number_and_every_part_a_name() {
        let y = Axis::linear("seconds", 10.0, |value| value.to_string());
        let part = |name| Part { name, color: super::super::BLUE, ink: "#ffffff" };
        let bars = [Bar { name: "1".to_owned(), values: vec![9.9, 0.1] }];
        let written = |value: f64, sum: f64| format!("{:.0} %", 100.0 * value / sum);
        let text = draw("breakdown", "ranks", &y, &[part("compute"), part("other")], &bars, written);
        let document = roxmltree::Document::parse(&text).unwrap();
        let texts: Vec<&str> = document.descendants().filter_map(|node| node.text()).collect();
        assert!(texts.contains(&"99 %") && !texts.contains(&"1 %"), "{texts:?}");
        assert!(texts.contains(&"compute") && texts.contains(&"other") && texts.contains(&"ranks"));
    }
}
