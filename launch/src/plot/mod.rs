//! Figures as SVG text: lines with error bars, stacked bars. One concept per file, no state, no styles outside of the
//! elements, so that a figure reads the same in a page, in print and in a converter.
//!
//! - [`svg`]: elements and their escaping; [`axis`]: from values to places, and ticks;
//! - [`lines`], [`bars`]: the two kinds of figure; [`page`]: where they stand.
//!
//! Colours are those of Okabe and Ito ("Color universal design", 2008), which readers with any kind of colour vision
//! tell apart; lines differ by dashes and are named where they end, so that print without colour does too.

pub mod axis;
pub mod bars;
pub mod lines;
pub mod page;
pub mod svg;

/// Blue.
pub const BLUE: &str = "#0072b2";
/// Vermilion.
pub const VERMILION: &str = "#d55e00";
/// Bluish green.
pub const GREEN: &str = "#009e73";
/// Orange.
pub const ORANGE: &str = "#e69f00";
/// Reddish purple.
pub const PURPLE: &str = "#cc79a7";
/// For what is no measurement.
pub const GREY: &str = "#767676";
/// Text and axes.
pub(crate) const INK: &str = "#222222";
/// Lines of the grid.
pub(crate) const FAINT: &str = "#dddddd";

/// Size of a figure and what its axes leave free, in pixels.
pub(crate) const WIDTH: f64 = 680.0;
pub(crate) const HEIGHT: f64 = 330.0;
pub(crate) const LEFT: f64 = 62.0;
pub(crate) const RIGHT: f64 = 150.0;
pub(crate) const TOP: f64 = 34.0;
pub(crate) const BOTTOM: f64 = 48.0;
