//! `tisserand doctor`

use tisserand_runtime::plan::machine::Machine;
use tisserand_runtime::{Error, Result};

use super::{DONE, FAILED};
use crate::doctor::file_system::Scratch;
use crate::doctor::{self, Options, Report, Verdict, text};
use crate::node::Node;
use crate::ranks::Ranks;
use crate::world::{self, World};
use crate::{cli, env, output};

/// Examines the machines, on this process's rank or on all of them.
pub(super) fn run(arguments: &cli::Doctor) -> Result<u8> {
    world::enter(arguments.ranks, |ranks, world| examine(arguments, ranks, world))
}

fn examine(arguments: &cli::Doctor, ranks: &Ranks, world: World) -> Result<u8> {
    let machine = arguments.profile.as_deref().map(Machine::load).transpose()?;
    #[cfg(feature = "nccl")]
    if !matches!(world, World::Threads(_)) {
        env::start_again_with(&doctor::nccl::log_variables())?;
    }
    let folder = Scratch::place(&arguments.dir, &env::job_id());
    let scratch = (ranks.rank == 0).then(|| Scratch::make(&arguments.dir, &env::job_id())).transpose()?;
    let options = Options { folder, seconds: arguments.seconds as f64, machine };
    let mut node = Node::of(ranks);
    let config = node.config(|| doctor::terms(&options.folder))?;
    let report = world.run(ranks, &mut node, &config, |place, control| {
        doctor::examine(place, control.as_ref(), &options)
    })?;
    drop(scratch);
    report.map_or(Ok(DONE), |report| tell(&report, arguments))
}

fn tell(report: &Report, arguments: &cli::Doctor) -> Result<u8> {
    if arguments.json {
        let json = serde_json::to_string(report);
        output::line(&json.map_err(|error| Error::fault(format!("cannot print the report: {error}")))?)?;
    } else {
        text::lines(report).iter().try_for_each(|line| output::line(line))?;
    }
    let bound = if arguments.strict { Verdict::Warn } else { Verdict::Fail };
    Ok(if report.verdict >= bound { FAILED } else { DONE })
}
