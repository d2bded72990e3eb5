//! What a machine wants of a job: `launch/profiles/*.toml`, or a file of the same form.
//!
//! Every line has a reason (`why`) and says where it is from (`from`, a name of `[sources]`). A source
//! begins with `verified` (a job ran so, on that date), `documentation`, `users` (public scripts of others)
//! or `assumed`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use tisserand_runtime::files::io_error;
use tisserand_runtime::{Error, Result};

use super::walltime::Walltime;

const PROFILES: [(&str, &str); 9] = [
    ("generic", include_str!("../../profiles/generic.toml")),
    ("jeanzay-h100", include_str!("../../profiles/jeanzay-h100.toml")),
    ("jeanzay-a100", include_str!("../../profiles/jeanzay-a100.toml")),
    ("leonardo", include_str!("../../profiles/leonardo.toml")),
    ("mn5", include_str!("../../profiles/mn5.toml")),
    ("jupiter", include_str!("../../profiles/jupiter.toml")),
    ("alps", include_str!("../../profiles/alps.toml")),
    ("lumi", include_str!("../../profiles/lumi.toml")),
    ("alice-recoque", include_str!("../../profiles/alice-recoque.toml")),
];

/// How a source may begin.
const KINDS: [&str; 4] = ["verified ", "documentation: ", "users: ", "assumed: "];

/// A machine, or one kind of its nodes.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Its name on the command line.
    #[serde(skip)]
    pub name: String,
    /// The machine, for people.
    pub machine: String,
    /// The page about it.
    pub page: String,
    /// Why no job can be made for it yet; then nothing else is said.
    pub refused: Option<String>,
    /// Where lines are from, by name.
    #[serde(default)]
    pub sources: BTreeMap<String, String>,
    /// The profile of the planner for its GPUs.
    pub planner: Option<Fact<String>>,
    /// Tasks of a node: one a GPU.
    pub ranks_per_node: Option<Fact<usize>>,
    /// Cores of a task.
    pub cpus_per_task: Option<Fact<usize>>,
    /// Options of sbatch, in order. `{account}` and `{gpus}` in a value are filled in; a line with `{gpus}`
    /// is for runs on GPUs only.
    #[serde(default)]
    pub sbatch: Vec<Setting>,
    /// Qualities of service, the usual one first.
    #[serde(default)]
    pub qos: Vec<Qos>,
    /// The time limit of a job that asks for none.
    pub time: Option<Fact<Walltime>>,
    /// Modules to load.
    pub modules: Option<Fact<Vec<String>>>,
    /// Environment variables.
    #[serde(default)]
    pub variable: Vec<Setting>,
    /// Options of srun.
    #[serde(default)]
    pub srun: Vec<Setting>,
    /// What srun's `--mpi` is for ranks on CPUs, which meet by MPI.
    pub mpi: Option<Fact<String>>,
    /// What the name of the first host needs at its end to name the fast network.
    pub first_host_suffix: Option<Fact<String>>,
    /// Seconds before the time limit at which a job is told to stop.
    pub signal_lead_s: Option<Fact<u64>>,
    /// How a job that stopped early goes on.
    pub restart: Option<Fact<Restart>>,
    /// Quotas of file systems.
    #[serde(default)]
    pub quota: Vec<Quota>,
}

/// A value, its reason and its source.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fact<T> {
    /// The value.
    pub value: T,
    /// Why it is so.
    pub why: String,
    /// Which source says so.
    pub from: String,
}

/// An option or a variable.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// Without dashes.
    pub name: String,
    /// Empty for an option that has none.
    #[serde(default)]
    pub value: String,
    /// Why it is there.
    pub why: String,
    /// Which source says so.
    pub from: String,
}

/// A quality of service, and what it admits.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Qos {
    /// Its name; empty for the one that a job has without asking.
    pub name: String,
    /// Longest job.
    pub max_time: Walltime,
    /// Largest job.
    pub max_nodes: Option<usize>,
    /// Smallest job.
    #[serde(default)]
    pub min_nodes: usize,
    /// Whether it must be asked for by name, because it is for tests.
    #[serde(default)]
    pub on_request: bool,
    /// What it is for.
    pub why: String,
    /// Which source says so.
    pub from: String,
}

/// How a job that stopped early with a checkpoint goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Restart {
    /// It puts itself back into the queue.
    Requeue,
    /// The next of several jobs of one name begins.
    Chain,
}

/// How much may lie below the folder that a variable names.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// The environment variable.
    pub variable: String,
    /// Of a project.
    pub bytes: u64,
    /// Which source says so.
    pub from: String,
}

impl Profile {
    /// The names of the profiles that come with the program.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PROFILES.iter().map(|(name, _)| *name)
    }

    /// The profile of that name, or in the file of that path (`*.toml`).
    ///
    /// # Errors
    /// Input, if there is none, its text is not understood, or no job can be made for the machine yet.
    pub fn load(name: &str) -> Result<Profile> {
        let profile = match PROFILES.iter().find(|(known, _)| *known == name) {
            Some((name, text)) => Self::parse(name, text)?,
            None if Path::new(name).extension().is_some_and(|extension| extension == "toml") => {
                let path = Path::new(name);
                let text = std::fs::read_to_string(path)
                    .map_err(|error| io_error("read the profile", path, &error))?;
                Self::parse(name, &text)?
            }
            None => return Err(unknown_profile(name)),
        };
        match &profile.refused {
            Some(why) => Err(Error::input(format!("--profile {name}: {}: {why}", profile.machine))),
            None => Ok(profile),
        }
    }

    /// A profile's text.
    ///
    /// # Errors
    /// Input, if it is not understood, or a line names a source that is not there.
    pub fn parse(name: &str, text: &str) -> Result<Profile> {
        let mut profile: Profile =
            toml::from_str(text).map_err(|error| not_understood(name, text, &error))?;
        profile.name = name.to_owned();
        profile.check().map_err(|why| Error::input(format!("profile {name}: {why}")))?;
        Ok(profile)
    }

    /// Every line's source, in no order.
    fn froms(&self) -> Vec<&str> {
        fn of<T>(fact: &Option<Fact<T>>) -> Option<&str> {
            fact.as_ref().map(|fact| fact.from.as_str())
        }
        let settings = [&self.sbatch, &self.variable, &self.srun].into_iter().flatten();
        let mut froms: Vec<&str> = settings.map(|setting| setting.from.as_str()).collect();
        froms.extend(self.qos.iter().map(|qos| qos.from.as_str()));
        froms.extend(self.quota.iter().map(|quota| quota.from.as_str()));
        froms.extend(of(&self.planner));
        froms.extend(of(&self.ranks_per_node));
        froms.extend(of(&self.cpus_per_task));
        froms.extend(of(&self.time));
        froms.extend(of(&self.modules));
        froms.extend(of(&self.mpi));
        froms.extend(of(&self.first_host_suffix));
        froms.extend(of(&self.signal_lead_s));
        froms.extend(of(&self.restart));
        froms
    }

    fn check(&self) -> Result<(), String> {
        for (name, source) in &self.sources {
            if !KINDS.iter().any(|kind| source.starts_with(kind)) {
                let kinds = KINDS.map(str::trim_end).join(", ");
                return Err(format!("sources.{name} = {source:?}, expected to begin with one of {kinds}"));
            }
        }
        if let Some(from) = self.froms().into_iter().find(|from| !self.sources.contains_key(*from)) {
            return Err(format!("from = {from:?}: no such source; hint: add it to [sources]"));
        }
        let zero = |fact: &Option<Fact<usize>>| fact.as_ref().is_some_and(|fact| fact.value == 0);
        for (key, fact) in [("ranks_per_node", &self.ranks_per_node), ("cpus_per_task", &self.cpus_per_task)]
        {
            if zero(fact) {
                return Err(format!("{key} = 0, expected at least 1"));
            }
        }
        let name = |setting: &Setting| {
            let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            !setting.name.is_empty() && setting.name.bytes().all(known)
        };
        let mut settings = [&self.sbatch, &self.variable, &self.srun].into_iter().flatten();
        match settings.find(|setting| !name(setting)) {
            Some(setting) => Err(format!("name = {:?}, expected letters, digits, - and _", setting.name)),
            None => Ok(()),
        }
    }
}

fn unknown_profile(name: &str) -> Error {
    let near = nearest(name, Profile::names());
    let names: Vec<&str> = Profile::names().collect();
    let near = near.map_or_else(String::new, |near| format!(" did you mean {near}?"));
    Error::input(format!(
        "--profile {name:?}: no such profile;{near} there are {}, or a file PROFILE.toml (docs/slurm.md)",
        names.join(", ")
    ))
}

/// One line of what is wrong, with the nearest key where one is unknown.
fn not_understood(name: &str, text: &str, error: &toml::de::Error) -> Error {
    let start = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
    let message = error.message().trim().replace('\n', ", ");
    // serde: unknown field `a`, expected one of `b`, `c`
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let message = match quoted.split_first() {
        Some((key, known)) if message.starts_with("unknown field") => {
            match nearest(key, known.iter().copied()) {
                Some(near) => format!("unknown key {}; did you mean {near}?", key.escape_debug()),
                None => format!("unknown key {}; the keys here are {}", key.escape_debug(), known.join(", ")),
            }
        }
        _ => message,
    };
    Error::input(format!("profile {name}, line {line}: {message}"))
}

fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    // Below that a suggestion is noise.
    const LEAST: f64 = 0.5;
    let ranked = known.map(|known| (strsim::normalized_damerau_levenshtein(known, name), known));
    ranked.filter(|(score, _)| *score >= LEAST).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}

#[cfg(test)]
mod tests;
