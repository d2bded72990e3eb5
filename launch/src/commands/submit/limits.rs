//! The time limit of a job, and the quality of service that admits it.

use tisserand_runtime::{Error, Result};

use crate::cli;
use crate::slurm::profile::{Profile, Qos};
use crate::slurm::script::Line;
use crate::slurm::walltime::Walltime;

/// Both, as asked for or as the profile has them.
///
/// # Errors
/// Input, if the time is none, or no quality of service admits it on so many nodes.
pub(super) fn limits(arguments: &cli::Submit, profile: &Profile) -> Result<(Walltime, Option<Line>)> {
    let known = arguments.qos.as_ref().and_then(|name| profile.qos.iter().find(|qos| qos.name == *name));
    let asked = match &arguments.time {
        Some(text) => Some(Walltime::parse(text).ok_or_else(|| {
            Error::input(format!(
                "--time {text:?}: expected HH:MM:SS, D-HH:MM:SS or minutes, e.g. --time 20:00:00"
            ))
        })?),
        // A short quality of service means a short job.
        None => {
            profile.time.as_ref().map(|fact| known.map_or(fact.value, |qos| fact.value.min(qos.max_time)))
        }
    };
    let Some(time) = asked else {
        return Err(Error::input(format!(
            "--time: profile {} knows no usual time limit; hint: --time 20:00:00",
            profile.name
        )));
    };
    let nodes = arguments.nodes;
    let admits = |qos: &&Qos| {
        time <= qos.max_time && nodes >= qos.min_nodes && qos.max_nodes.is_none_or(|most| nodes <= most)
    };
    let line = |qos: &Qos| Line {
        name: "qos".to_owned(),
        value: qos.name.clone(),
        why: qos.why.clone(),
        from: Some(qos.from.clone()),
    };
    let named = |qos: &&Qos| !qos.name.is_empty();
    let chosen = match &arguments.qos {
        Some(name) if known.is_none() => {
            return Ok((time, Some(Line::own("qos", name, "as asked for"))));
        }
        Some(_) => known.filter(admits),
        // The profile's limits are those of its own partition.
        None if profile.qos.is_empty() || arguments.partition.is_some() => return Ok((time, None)),
        None => profile.qos.iter().filter(|qos| !qos.on_request).find(admits),
    };
    match chosen {
        Some(qos) => Ok((time, Some(qos).filter(named).map(line))),
        None => Err(refused_limits(arguments, profile, time)),
    }
}

fn refused_limits(arguments: &cli::Submit, profile: &Profile, time: Walltime) -> Error {
    let offers = profile.qos.iter().filter(|qos| arguments.qos.as_ref().is_none_or(|name| qos.name == *name));
    let offer = |qos: &Qos| {
        let most = qos.max_nodes.map_or_else(String::new, |most| format!(", up to {most} nodes"));
        let least = if qos.min_nodes > 1 { format!(", from {} nodes", qos.min_nodes) } else { String::new() };
        let name = if qos.name.is_empty() { "the usual" } else { &qos.name };
        format!("{name} (up to {}{least}{most})", qos.max_time)
    };
    let offers: Vec<String> = offers.map(offer).collect();
    Error::input(format!(
        "--time {time} on {} nodes: not on {}, which has {}; hint: a shorter --time and --chain 4",
        arguments.nodes,
        profile.name,
        offers.join(", ")
    ))
}
