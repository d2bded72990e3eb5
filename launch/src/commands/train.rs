//! `tisserand train`

use tisserand_runtime::Result;
use tisserand_runtime::files::io_error;
use tisserand_runtime::train::{self, Outcome, TrainOptions};

use super::load;
use crate::{cli, device, env, output, signals, world};

/// Trains, and says how to go on.
pub(super) fn run(arguments: cli::Train) -> Result<u8> {
    let ranks = arguments.ranks;
    let config = load(&arguments.run_file, Some(ranks))?;
    let path = &arguments.run_file.path;
    let run_toml =
        std::fs::read_to_string(path).map_err(|error| io_error("read the run file", path, &error))?;
    let options = TrainOptions {
        run_toml,
        fresh: arguments.fresh,
        allow_change: arguments.allow_change,
        quiet: arguments.quiet,
        job_id: env::job_id(),
        process: env::process(),
    };
    let stop = signals::watch()?;
    let dir = config.run.dir.display().to_string();
    let outcome = world::on_threads(ranks, &config, |place, control| {
        let device = device::choose(&config, place)?;
        train::train(config.clone(), options.clone(), device, control, stop.clone())
    })?;
    if outcome == Outcome::Finished && !arguments.quiet {
        output::line("generate from it:")?;
        output::line(&format!("  tisserand generate --checkpoint {dir} --prompt \"fn main\""))?;
        output::line(&format!(
            "  tisserand generate --checkpoint {dir} --prompt \"The \" --temperature 0.5 --top-k 40"
        ))?;
    }
    Ok(outcome.exit_code())
}
