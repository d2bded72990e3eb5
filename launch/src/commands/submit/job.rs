//! What a user asked for, laid over what the machine's profile says.

use std::path::{Path, PathBuf};

use tisserand_runtime::config::{Config, DeviceKind};
use tisserand_runtime::{Error, Result};

use crate::cli;
use crate::slurm::profile::{Fact, Profile, Qos, Restart, Setting};
use crate::slurm::script::{Job, Line, Then};
use crate::slurm::walltime::Walltime;

/// Seconds of warning where neither the profile nor the command line says.
const LEAD_S: u64 = 300;

/// Options whose values are the program's business; others can be replaced by `--sbatch`.
const OWN_OPTIONS: [(&str, &str); 8] = [
    ("nodes", "--nodes"),
    ("ntasks-per-node", "--ranks-per-node"),
    ("cpus-per-task", "--cpus-per-task"),
    ("account", "--account"),
    ("qos", "--qos"),
    ("time", "--time"),
    ("signal", "--signal-lead"),
    ("dependency", "--chain"),
];

/// A job that can be had.
pub(super) struct Request<'a> {
    pub(super) arguments: &'a cli::Submit,
    pub(super) profile: &'a Profile,
    pub(super) ranks_per_node: usize,
    pub(super) on_gpus: bool,
    pub(super) time: Walltime,
    qos: Option<Line>,
    lead_s: u64,
    then: Then,
    job_name: String,
    run_dir: PathBuf,
    binary: PathBuf,
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
                "--signal-lead {lead_s}: the time limit of {time} leaves nothing to train; hint: a longer --time, or fewer \
                 seconds than {}",
                time.seconds()
            )));
        }
        let run_dir = absolute(&config.run.dir)?;
        let job_name = match then {
            Then::Chain => chain_name(&config.run.name, &run_dir),
            _ => config.run.name.clone(),
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
            Then::Requeue => "then requeued",
            Then::Chain => "in a chain",
            Then::Once => "once",
        };
        format!("{ranks} ranks on {nodes} nodes for {} each, {then}", self.time)
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
                "{}: this program was built without what the job needs; hint: cargo build --release --features {feature}, or \
                 --binary PATH of a program that was",
                self.binary.display()
            ))),
            None => Ok(()),
        }
    }

    /// The script's lines.
    ///
    /// # Errors
    /// Input, if an option makes no sense.
    pub(super) fn job(&self) -> Result<Job> {
        let Request { arguments, profile, .. } = self;
        let suffix = profile.first_host_suffix.as_ref();
        Ok(Job {
            machine: profile.machine.clone(),
            page: profile.page.clone(),
            command: std::iter::once("tisserand".to_owned()).chain(std::env::args().skip(1)).collect(),
            options: self.options()?,
            modules: self.modules(),
            variables: profile.variable.iter().map(of_setting).collect(),
            signal_lead_s: self.lead_s,
            first_host_suffix: suffix.map(|fact| of_fact("MASTER_ADDR", fact.value.clone(), fact)),
            on_gpus: self.on_gpus,
            srun: self.srun(),
            program: self.program(arguments),
            then: self.then,
            sources: profile.sources.clone(),
        })
    }

    fn options(&self) -> Result<Vec<Line>> {
        let Request { arguments, profile, .. } = self;
        let mut options = vec![Line::own("job-name", &self.job_name, "")];
        for setting in &profile.sbatch {
            options.extend(self.filled(setting)?);
        }
        if !profile.sbatch.iter().any(|setting| setting.name == "account") {
            options.extend(arguments.account.iter().map(|account| Line::own("account", account, "")));
        }
        options.push(Line::own("nodes", arguments.nodes, ""));
        options.push(Line::own("ntasks-per-node", self.ranks_per_node, "one rank a task"));
        options.extend(self.cpus_per_task());
        options.extend(self.qos.clone());
        options.push(Line::own("time", self.time, ""));
        let signal = format!("USR1@{}", self.lead_s);
        options.push(Line::own("signal", signal, "to the ranks: save and stop; up to 60 s earlier"));
        match self.then {
            Then::Requeue => options.push(Line::own("requeue", "", "also after the failure of a node")),
            Then::Chain => {
                options.push(Line::own("dependency", "singleton", "after the jobs of this name before it"));
                options.push(Line::own("no-requeue", "", "the next job of the chain goes on instead"));
            }
            Then::Once => options.push(Line::own("no-requeue", "", "submit it again to go on")),
        }
        options.push(Line::own("open-mode", "append", "a restarted job keeps its log"));
        options.push(Line::own("output", self.log(), ""));
        options.push(Line::own("chdir", absolute(Path::new("."))?.display(), "paths of the run file begin here"));
        self.replace(&mut options)?;
        Ok(options)
    }

    /// `--partition`, `--constraint` and `--sbatch`.
    fn replace(&self, options: &mut Vec<Line>) -> Result<()> {
        let arguments = self.arguments;
        let named = [("partition", &arguments.partition), ("constraint", &arguments.constraint)];
        let mut asked: Vec<(String, String)> = named
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)))
            .collect();
        for option in &arguments.options {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let name = name.trim_start_matches("--");
            if let Some((_, ours)) = OWN_OPTIONS.iter().find(|(own, _)| *own == name) {
                return Err(Error::input(format!("--sbatch {option:?}: hint: {ours} says that")));
            }
            let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            if name.is_empty() || !name.bytes().all(known) {
                return Err(Error::input(format!(
                    "--sbatch {option:?}: expected a long option of sbatch, e.g. --sbatch mail-type=END"
                )));
            }
            asked.push((name.to_owned(), value.to_owned()));
        }
        for (name, value) in asked {
            let line = Line::own(&name, value, "as asked for");
            match options.iter_mut().find(|option| option.name == name) {
                Some(option) => *option = line,
                None => options.push(line),
            }
        }
        Ok(())
    }

    /// An option of the profile; none, if it is about GPUs and the run is not.
    fn filled(&self, setting: &Setting) -> Result<Option<Line>> {
        let mut line = of_setting(setting);
        if line.value.contains("{gpus}") {
            if !self.on_gpus {
                return Ok(None);
            }
            line.value = line.value.replace("{gpus}", &self.ranks_per_node.to_string());
        }
        if line.value.contains("{account}") {
            let Some(account) = &self.arguments.account else {
                return Err(Error::input(format!(
                    "--account: {} wants to know who pays; hint: --account NAME of your project",
                    self.profile.name
                )));
            };
            // Who writes the whole of it means the same.
            let end = line.value.replace("{account}", "");
            let account = account.strip_suffix(&end).filter(|_| !end.is_empty()).unwrap_or(account);
            line.value = line.value.replace("{account}", account);
        }
        Ok(Some(line))
    }

    fn cpus_per_task(&self) -> Option<Line> {
        let asked = self.arguments.cpus_per_task.map(|cpus| Line::own("cpus-per-task", cpus, ""));
        let known = || self.profile.cpus_per_task.as_ref();
        asked.or_else(|| known().map(|fact| of_fact("cpus-per-task", fact.value.to_string(), fact)))
    }

    fn modules(&self) -> Option<Line> {
        let known = self.profile.modules.as_ref();
        let mut names = known.map(|fact| fact.value.clone()).unwrap_or_default();
        names.extend(self.arguments.modules.iter().cloned());
        match known {
            _ if names.is_empty() => None,
            Some(fact) => Some(of_fact("modules", names.join(" "), fact)),
            None => Some(Line::own("modules", names.join(" "), "as asked for")),
        }
    }

    fn srun(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        match &self.profile.mpi {
            _ if self.on_gpus => lines.push(Line::own("mpi", "none", "")),
            Some(fact) => lines.push(of_fact("mpi", fact.value.clone(), fact)),
            None => {}
        }
        // Else the first rank that stops early with 75 ends the others, and srun returns 143. The program itself
        // ends all ranks when one fails.
        lines.push(Line::own("kill-on-bad-exit", 0, ""));
        lines.push(Line::own("wait", 120, ""));
        lines.extend(self.profile.srun.iter().map(of_setting));
        lines
    }

    fn program(&self, arguments: &cli::Submit) -> Vec<String> {
        let run_file = arguments.run_file.path.display().to_string();
        let mut program = vec![self.binary.display().to_string(), "train".to_owned(), run_file];
        for set in &arguments.run_file.sets {
            program.extend(["--set".to_owned(), set.clone()]);
        }
        for key in &arguments.allow_change {
            program.extend(["--allow-change".to_owned(), key.clone()]);
        }
        program
    }
}

/// The time limit and the quality of service that admits it.
fn limits(arguments: &cli::Submit, profile: &Profile) -> Result<(Walltime, Option<Line>)> {
    let asked = match &arguments.time {
        Some(text) => Some(Walltime::parse(text).ok_or_else(|| {
            Error::input(format!("--time {text:?}: expected HH:MM:SS, D-HH:MM:SS or minutes, e.g. --time 20:00:00"))
        })?),
        None => profile.time.as_ref().map(|fact| fact.value),
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
        Some(name) => match profile.qos.iter().find(|qos| qos.name == *name) {
            Some(qos) => Some(qos).filter(admits),
            None => return Ok((time, Some(Line::own("qos", name, "as asked for")))),
        },
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

/// The run's name, and four digits of its folder: jobs of one name wait for each other, and other runs may have it too.
fn chain_name(run: &str, dir: &Path) -> String {
    // FNV-1a: must be the same in every build.
    let hash = dir.as_os_str().as_encoded_bytes().iter().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    format!("{run}-{:04x}", (hash >> 16) ^ (hash & 0xffff))
}

fn binary(arguments: &cli::Submit) -> Result<PathBuf> {
    let Some(path) = &arguments.binary else {
        return std::env::current_exe()
            .map_err(|error| Error::fault(format!("cannot find this program: {error}; hint: --binary PATH")));
    };
    if !arguments.dry_run && !path.is_file() {
        return Err(Error::input(format!("--binary {}: no such file; hint: check the path", path.display())));
    }
    absolute(path)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    let error = |error| Error::fault(format!("cannot find the current directory: {error}; hint: cd somewhere else"));
    let path = std::path::absolute(path).map_err(error)?;
    // Without the `.` at the end.
    Ok(path.components().collect())
}

fn of_setting(setting: &Setting) -> Line {
    let Setting { name, value, why, from } = setting.clone();
    Line { name, value, why, from: Some(from) }
}

fn of_fact<T>(name: &str, value: String, fact: &Fact<T>) -> Line {
    Line { name: name.to_owned(), value, why: fact.why.clone(), from: Some(fact.from.clone()) }
}
