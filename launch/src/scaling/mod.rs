//! How a run scales: a sweep over numbers of ranks, and a report of which every figure can be made again.
//! docs/scaling.md is the user's page.
//!
//! - **Before**: [`sweep`]: which points, in which order, and what is refused; [`store`]: the folder, and going on
//!   in it; [`environment`]: program, machine, network.
//! - **Points**: [`start`]: how ranks are started; [`record`]: what they write down ([`crate::commands`] has the
//!   command that runs on them); [`energy`]: what they take.
//! - **After**: [`assemble`] makes the [`report`] of the records, with [`statistics`] and what [`predict`] says;
//!   [`text`], [`csv`], [`tex`], [`html`] and [`figures`] print it, with the [`definitions`].

pub mod assemble;
pub mod csv;
pub mod definitions;
pub mod energy;
pub mod environment;
pub mod figures;
pub mod html;
pub mod predict;
pub mod record;
pub mod report;
pub mod start;
pub mod statistics;
pub mod store;
pub mod sweep;
pub mod tex;
pub mod text;

#[cfg(test)]
mod tests;
