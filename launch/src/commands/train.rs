//! `tisserand train`

use std::sync::Arc;

use tisserand_collectives::ControlPlane;
use tisserand_runtime::Result;
use tisserand_runtime::run::StopFlag;
use tisserand_runtime::train::{self, Outcome, TrainOptions};

use super::load_on;
use crate::node::Node;
use crate::ranks::Ranks;
use crate::world::{self, World};
use crate::{cli, device, env, output, placement, signals, slurm};

/// Trains, on this process's rank or on all of them, and says how to go on.
pub(super) fn run(arguments: cli::Train) -> Result<u8> {
    world::enter(arguments.ranks, |ranks, world| train(arguments, ranks, world))
}

fn train(arguments: cli::Train, ranks: &Ranks, world: World) -> Result<u8> {
    let mut node = Node::of(ranks);
    let (config, run_toml) = load_on(&mut node, &arguments.run_file, world.size(ranks))?;
    let options = TrainOptions {
        run_toml,
        fresh: arguments.fresh,
        allow_change: arguments.allow_change,
        quiet: arguments.quiet,
        job: env::job()?,
        process: env::process(),
        notices: Vec::new(),
        warnings: Vec::new(),
        hosts: Vec::new(),
    };
    if ranks.rank == 0 && config.run.max_minutes.is_none() && env::slurm_job().is_some() {
        slurm::limit::watch(options.job.end.clone(), options.job.id.clone(), env::slurm_end_time())?;
    }
    let stop = StopFlag::new();
    let dir = config.run.dir.display().to_string();
    let part = |place: device::Place, control: Arc<dyn ControlPlane>| {
        let mut options = TrainOptions { notices: place.notices.clone(), ..options.clone() };
        let device = device::choose(&config, place)?;
        let node = options.job.node.as_deref();
        let placement = placement::settle(control.as_ref(), &device, node, config.run.oversubscribe)?;
        if let Some(placement) = placement {
            placement.tell(&mut options);
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
