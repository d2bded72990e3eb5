//! `tisserand bench`

mod scaling;
mod sweeping;
mod worker;

use tisserand_runtime::Result;

use crate::cli::Bench;

/// Runs one of its commands.
pub(super) fn run(command: &Bench) -> Result<u8> {
    match command {
        Bench::Scaling(arguments) => scaling::run(arguments),
        Bench::Worker(arguments) => worker::run(arguments),
    }
}
