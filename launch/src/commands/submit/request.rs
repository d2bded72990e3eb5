//! What a user asked for, laid over what the machine's profile says. `lines` makes a job of it.

use std::path::{Path, PathBuf};

use tisserand_runtime::config::{Config, DeviceKind};
use tisserand_runtime::{Error, Result};

use super::limits::limits;
use crate::slurm::profile::{Profile, Restart};
use crate::slurm::script::{Line, Then};
use crate::slurm::walltime::Walltime;
use crate::{cli, env};

/// Seconds of warning where neither the profile nor the command line says.
const LEAD_S: u64 = 300;

/// A job that can be had.
pub(super) struct Request<'a> {
    pub(super) arguments: &'a cli::Submit,
    pub(super) profile: &'a Profile,
    pub(super) ranks_per_node: usize,
    pub(super) on_gpus: bool,
    pub(super) time: Walltime,
    pub(super) qos: Option<Line>,
    pub(super) lead_s: u64,
    pub(super) then: Then,
    pub(super) job_name: String,
    pub(super) run_dir: PathBuf,
    pub(super) binary: PathBuf,
}

/// As the command line says, else as many as the profile's nodes have GPUs.
///
/// # Errors
/// Neither says.
pub(super) fn ranks_per_node(arguments: &cli::Submit, profile: &Profile) -> Result<usize> {
    let known = profile.ranks_per_node.as_ref().map(|fact| fact.value);
    match (arguments.ranks_per_node, known) {
        (Some(asked), Some(known)) if asked > known => Err(Error::input(format!(
            "--ranks-per-node {asked}: a node of {} has {known} GPUs",
            profile.name
        ))),
        (asked, known) => asked.or(known).ok_or_else(|| {
            Error::input(format!(
                "--nodes {}: profile {} does not know how many ranks a node takes; hint: --ranks-per-node 4",
                arguments.nodes, profile.name
            ))
        }),
    }
}

impl<'a> Request<'a> {
    /// Chooses what is left open.
    ///
    /// # Errors
    /// Input, if the machine does not give that.
    pub(super) fn new(
        arguments: &'a cli::Submit,
        profile: &'a Profile,
        config: &Config,
        ranks_per_node: usize,
    ) -> Result<Request<'a>> {
        let on_gpus = config.run.device == DeviceKind::Cuda;
        if !on_gpus && profile.planner.is_some() {
            return Err(Error::input(format!(
                "run.device = \"cpu\": the nodes of {} are there for their GPUs; hint: --set run.device=cuda",
                profile.name
            )));
        }
        let then = match profile.restart.as_ref().map_or(Restart::Requeue, |fact| fact.value) {
            _ if arguments.chain.is_some() => Then::Chain,
            _ if arguments.requeue => Then::Requeue,
            Restart::Requeue => Then::Requeue,
            Restart::Chain => Then::Once,
        };
        let (time, qos) = limits(arguments, profile)?;
        let lead = profile.signal_lead_s.as_ref().map_or(LEAD_S, |fact| fact.value);
        let lead_s = arguments.signal_lead.map_or(lead, |lead| lead as u64);
        if lead_s >= time.seconds() {
            return Err(Error::input(format!(
                "--signal-lead {lead_s}: the time limit of {time} leaves nothing to train; hint: a longer \
                 --time, or fewer seconds than {}",
                time.seconds()
            )));
        }
        let run_dir = absolute(&config.run.dir)?;
        let job_name = match then {
            Then::Chain => chain_name(&config.run.name, &run_dir),
            _ => plain_name(&config.run.name),
        };
        let binary = binary(arguments)?;
        Ok(Request {
            arguments,
            profile,
            ranks_per_node,
            on_gpus,
            time,
            qos,
            lead_s,
            then,
            job_name,
            run_dir,
            binary,
        })
    }

    /// In one line.
    pub(super) fn summary(&self) -> String {
        let nodes = self.arguments.nodes;
        let ranks = nodes * self.ranks_per_node;
        let then = match self.then {
            Then::Requeue => "requeued when it stops early",
            Then::Chain => "one after the other",
            Then::Once => "not restarted",
        };
        let plural = |count| if count == 1 { "" } else { "s" };
        format!("{ranks} rank{} on {nodes} node{} for {}, {then}", plural(ranks), plural(nodes), self.time)
    }

    /// Where Slurm writes what the job prints; `%j` is its id.
    pub(super) fn log(&self) -> String {
        let jobs = self.run_dir.join("jobs").display().to_string();
        format!("{}/slurm-%j.log", jobs.replace('%', "%%"))
    }

    /// A job that this very program cannot run is not worth waiting for.
    ///
    /// # Errors
    /// It was built without what the run needs.
    pub(super) fn refuse_other_builds(&self, config: &Config) -> Result<()> {
        let several = self.arguments.nodes * self.ranks_per_node > 1;
        let lacking = match config.run.device {
            _ if self.arguments.binary.is_some() => None,
            DeviceKind::Cuda if several && !cfg!(feature = "nccl") => Some("nccl"),
            DeviceKind::Cuda if !cfg!(feature = "gpu") => Some("cuda"),
            DeviceKind::Cpu if several && !cfg!(feature = "mpi") => Some("mpi"),
            _ => None,
        };
        match lacking {
            Some(feature) => Err(Error::input(format!(
                "{}: this program was built without what the job needs; hint: cargo build --release \
                 --features {feature}, or --binary PATH of a program that was",
                self.binary.display()
            ))),
            None => Ok(()),
        }
    }
}

/// The run's name in characters that no command of Slurm takes for something else.
fn plain_name(run: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || "._-".contains(c) { c } else { '_' };
    run.chars().map(plain).collect()
}

/// The run's name, and four digits of its folder: jobs of one name wait for each other, and other runs may
/// have it too.
fn chain_name(run: &str, dir: &Path) -> String {
    // FNV-1a: must be the same in every build.
    let hash = dir
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    format!("{}-{:04x}", plain_name(run), (hash >> 16) ^ (hash & 0xffff))
}

fn binary(arguments: &cli::Submit) -> Result<PathBuf> {
    let Some(path) = &arguments.binary else { return env::program() };
    if !arguments.dry_run && !path.is_file() {
        return Err(Error::input(format!("--binary {}: no such file; hint: check the path", path.display())));
    }
    absolute(path)
}

pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    let error =
        |error| Error::fault(format!("cannot find the current directory: {error}; hint: cd somewhere else"));
    let path = std::path::absolute(path).map_err(error)?;
    // Without the `.` at the end.
    Ok(path.components().collect())
}
