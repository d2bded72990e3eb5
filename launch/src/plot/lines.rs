//! Lines over a logarithmic or linear axis, with error bars, each named where it ends.

use super::axis::Axis;
use super::svg::{Anchor, Svg};
use super::{BOTTOM, FAINT, HEIGHT, INK, LEFT, RIGHT, TOP, WIDTH};

/// Least distance of two names, pixels.
const NAME_HEIGHT: f64 = 14.0;

/// A value with its spread.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Spot {
    /// Where.
    pub x: f64,
    /// The value.
    pub y: f64,
    /// From where to where it spreads; `None`: no error bar.
    pub spread: Option<[f64; 2]>,
}

/// How a line looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stroke {
    /// Measured: solid, with a dot at each value.
    Measured,
    /// Of so many values that dots would hide the line: solid.
    Plain,
    /// Predicted: dashed.
    Dashed,
    /// A limit: dotted.
    Dotted,
}

/// One line.
#[derive(Clone, PartialEq, Debug)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Its colour.
    pub color: &'static str,
    /// How it looks.
    pub stroke: Stroke,
    /// In ascending order of x.
    pub spots: Vec<Spot>,
}

/// The figure; `title` is for those who do not see it.
pub fn draw(title: &str, x: &Axis, y: &Axis, series: &[Series]) -> String {
    let mut svg = Svg::new(WIDTH, HEIGHT, title);
    frame(&mut svg, x, y);
    for line in series {
        draw_line(&mut svg, x, y, line);
    }
    names(&mut svg, x, y, series);
    svg.finish()
}

fn at(x: &Axis, y: &Axis, [right, up]: [f64; 2]) -> [f64; 2] {
    let place = |share: f64, from: f64, to: f64| from + share * (to - from);
    [place(x.place(right), LEFT + 12.0, WIDTH - RIGHT), place(y.place(up), HEIGHT - BOTTOM, TOP)]
}

/// Grid, ticks and labels. The name of the vertical axis stands above it, where it is read without turning the head.
pub(super) fn frame(svg: &mut Svg, x: &Axis, y: &Axis) {
    horizontals(svg, y);
    let bottom = HEIGHT - BOTTOM;
    for (value, written) in &x.ticks {
        let [place, _] = at(x, y, [*value, 0.0]);
        svg.line([place, bottom], [place, bottom + 5.0], INK, 1.0);
        svg.text([place, bottom + 19.0], Anchor::Middle, written);
    }
    svg.text([(LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 8.0], Anchor::Middle, &x.label);
}

/// The vertical axis alone.
pub(super) fn horizontals(svg: &mut Svg, y: &Axis) {
    let bottom = HEIGHT - BOTTOM;
    for (value, written) in &y.ticks {
        let place = bottom + y.place(*value) * (TOP - bottom);
        svg.line([LEFT, place], [WIDTH - RIGHT + 8.0, place], FAINT, 1.0);
        svg.text([LEFT - 8.0, place + 4.0], Anchor::End, written);
    }
    svg.line([LEFT, bottom], [WIDTH - RIGHT + 8.0, bottom], INK, 1.0);
    svg.text([8.0, 16.0], Anchor::Start, &y.label);
}

fn draw_line(svg: &mut Svg, x: &Axis, y: &Axis, line: &Series) {
    let places: Vec<[f64; 2]> = line.spots.iter().map(|spot| at(x, y, [spot.x, spot.y])).collect();
    let dashes = match line.stroke {
        Stroke::Measured | Stroke::Plain => None,
        Stroke::Dashed => Some("7 4"),
        Stroke::Dotted => Some("2 3"),
    };
    svg.path(&places, line.color, dashes);
    for (spot, place) in line.spots.iter().zip(&places) {
        if let Some([low, high]) = spot.spread {
            let ([_, low], [_, high]) = (at(x, y, [spot.x, low]), at(x, y, [spot.x, high]));
            svg.line([place[0], low], [place[0], high], line.color, 1.5);
            for end in [low, high] {
                svg.line([place[0] - 5.0, end], [place[0] + 5.0, end], line.color, 1.5);
            }
        }
        if line.stroke == Stroke::Measured {
            svg.dot(*place, line.color);
        }
    }
}

/// Names beside the ends of their lines, moved apart where they would lie on each other.
fn names(svg: &mut Svg, x: &Axis, y: &Axis, series: &[Series]) {
    let mut ends: Vec<(f64, f64, &Series)> = Vec::new();
    for line in series {
        if let Some(last) = line.spots.last() {
            let [right, place] = at(x, y, [last.x, last.y]);
            ends.push((place, right, line));
        }
    }
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let places = apart(&ends.iter().map(|end| end.0).collect::<Vec<_>>(), TOP, HEIGHT - BOTTOM);
    for ((_, right, line), place) in ends.iter().zip(places) {
        svg.colored_text([right + 14.0, place + 4.0], Anchor::Start, line.color, &line.name);
    }
}

/// Ascending places, moved to be [`NAME_HEIGHT`] apart, within the limits if there is room.
fn apart(places: &[f64], top: f64, bottom: f64) -> Vec<f64> {
    let mut moved: Vec<f64> = Vec::with_capacity(places.len());
    for place in places {
        let least = moved.last().map_or(top, |above| above + NAME_HEIGHT);
        moved.push(place.max(least));
    }
    let mut most = bottom;
    for place in moved.iter_mut().rev() {
        *place = place.min(most);
        most = *place - NAME_HEIGHT;
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_distance() {
        assert_eq!(apart(&[50.0, 52.0, 90.0], 0.0, 100.0), [50.0, 64.0, 90.0]);
        assert_eq!(apart(&[99.0, 100.0], 0.0, 100.0), [86.0, 100.0]);
        assert_eq!(apart(&[], 0.0, 100.0), Vec::<f64>::new());
    }

    #[test]
    fn a_figure_has_every_line_dot_and_name() {
        let x = Axis::log("ranks", &[1.0, 2.0], |value| value.to_string());
        let y = Axis::linear("efficiency <1>", 1.0, |value| value.to_string());
        let spot = |x, y| Spot { x, y, spread: Some([y - 0.1, y + 0.05]) };
        let series = [
            Series {
                name: "measured & true".to_owned(),
                color: super::super::BLUE,
                stroke: Stroke::Measured,
                spots: vec![spot(1.0, 1.0), spot(2.0, 0.9)],
            },
            Series {
                name: "ideal".to_owned(),
                color: super::super::GREY,
                stroke: Stroke::Dotted,
                spots: vec![Spot { x: 1.0, y: 1.0, spread: None }, Spot { x: 2.0, y: 1.0, spread: None }],
            },
        ];
        let text = draw("efficiency", &x, &y, &series);
        let document = roxmltree::Document::parse(&text).unwrap();
        let count = |name: &str| {
            document
                .descendants()
                .filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", name)))
                .count()
        };
        assert_eq!((count("polyline"), count("circle")), (2, 2));
        let texts: Vec<&str> = document.descendants().filter_map(|node| node.text()).collect();
        assert!(
            ["measured & true", "ideal", "ranks", "efficiency <1>"].iter().all(|name| texts.contains(name))
        );
        assert!(!text.contains("NaN") && !text.contains("inf"));
    }
}
