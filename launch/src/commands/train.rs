//! `tisserand train`

use std::sync::Arc;

use tisserand_collectives::ControlPlane;
use tisserand_runtime::run::StopFlag;
use tisserand_runtime::train::{self, Outcome, TrainOptions};
use tisserand_runtime::{Error, Result};

use super::load_on;
use crate::node::Node;
use crate::ranks::Ranks;
use crate::world::{self, Agree, World};
use crate::{cli, device, env, output, placement, signals};

/// Trains, on this process's rank or on all of them, and says how to go on.
pub(super) fn run(arguments: cli::Train) -> Result<u8> {
    let ranks = Ranks::discover(&env::variable).map_err(|error| Error::input(error.to_string()))?;
    match World::new(&ranks, arguments.ranks) {
        Ok(world) => world::speak(ranks.rank, Agree::Perhaps, train(arguments, &ranks, world)),
        Err(error) => world::speak(ranks.rank, Agree::Surely, Err(error)),
    }
}

fn train(arguments: cli::Train, ranks: &Ranks, world: World) -> Result<u8> {
    let mut node = Node::of(ranks);
    let (config, run_toml) = load_on(&mut node, &arguments.run_file, world.size(ranks))?;
    let options = TrainOptions {
        run_toml,
        fresh: arguments.fresh,
        allow_change: arguments.allow_change,
        quiet: arguments.quiet,
        job_id: env::job_id(),
        process: env::process(),
        notices: Vec::new(),
        warnings: Vec::new(),
        hosts: Vec::new(),
    };
    let stop = StopFlag::new();
    let dir = config.run.dir.display().to_string();
    let part = |place: device::Place, control: Arc<dyn ControlPlane>| {
        let mut options = TrainOptions { notices: place.notices.clone(), ..options.clone() };
        let device = device::choose(&config, place)?;
        if let Some(placement) = placement::settle(control.as_ref(), &device, config.run.oversubscribe)? {
            options.notices.extend(placement.table);
            options.warnings.extend(placement.warning);
            options.hosts = placement.hosts;
        }
        train::train(config.clone(), options, device, control, stop.clone())
    };
    if matches!(world, World::Threads(_)) {
        signals::watch(&stop)?;
    }
    let outcome = world.run(ranks, &mut node, &config, |place, control| {
        // Not before: while processes meet there is nothing to save, and a signal ends them.
        if !matches!(world, World::Threads(_)) {
            signals::watch(&stop)?;
        }
        part(place, control)
    })?;
    if outcome == Outcome::Finished && !arguments.quiet && ranks.rank == 0 {
        output::line("generate from it:")?;
        output::line(&format!("  tisserand generate --checkpoint {dir} --prompt \"fn main\""))?;
        output::line(&format!(
            "  tisserand generate --checkpoint {dir} --prompt \"The \" --temperature 0.5 --top-k 40"
        ))?;
    }
    Ok(outcome.exit_code())
}
