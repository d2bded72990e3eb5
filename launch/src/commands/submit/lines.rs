//! The lines of a job's script: those of the profile, those of the program, and what replaces them.

use std::path::Path;

use tisserand_runtime::{Error, Result};

use super::request::{Request, absolute};
use crate::env;
use crate::slurm::profile::{Fact, Restart, Setting};
use crate::slurm::script::{Job, Line, Then};

/// Options whose values are the program's business; others can be replaced by `--sbatch`.
const OWN_OPTIONS: [(&str, &str); 10] = [
    ("nodes", "--nodes"),
    ("ntasks-per-node", "--ranks-per-node"),
    ("cpus-per-task", "--cpus-per-task"),
    ("account", "--account"),
    ("qos", "--qos"),
    ("time", "--time"),
    ("signal", "--signal-lead"),
    ("dependency", "--chain"),
    ("requeue", "--requeue"),
    ("no-requeue", "--chain"),
];

impl Request<'_> {
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
            command: env::command_line(),
            options: self.options()?,
            modules: self.modules(),
            variables: profile.variable.iter().map(of_setting).collect(),
            signal_lead_s: match (arguments.signal_lead, &profile.signal_lead_s) {
                (None, Some(fact)) => of_fact("signal", self.lead_s.to_string(), fact),
                _ => Line::own("signal", self.lead_s, "as asked for"),
            },
            first_host_suffix: suffix.map(|fact| of_fact("MASTER_ADDR", fact.value.clone(), fact)),
            on_gpus: self.on_gpus,
            srun: self.srun(),
            program: self.program(),
            jobs: self.run_dir.join("jobs").display().to_string(),
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
        options.push(match (&arguments.time, &profile.time) {
            (None, Some(fact)) if fact.value == self.time => of_fact("time", self.time.to_string(), fact),
            _ => Line::own("time", self.time, ""),
        });
        let signal = format!("USR1@{}", self.lead_s);
        options.push(Line::own("signal", signal, "to the ranks: save and stop; up to 60 s earlier"));
        match self.then {
            Then::Requeue => options.push(match &profile.restart {
                Some(fact) if fact.value == Restart::Requeue => of_fact("requeue", String::new(), fact),
                _ => Line::own("requeue", "", "as asked for"),
            }),
            Then::Chain => {
                options.push(Line::own("dependency", "singleton", "after the jobs of this name before it"));
                options.push(Line::own("no-requeue", "", "the next job of the chain goes on instead"));
            }
            Then::Once => options.push(Line::own("no-requeue", "", "submit it again to go on")),
        }
        options.push(Line::own("open-mode", "append", "a restarted job keeps its log"));
        options.push(Line::own("output", self.log(), ""));
        options.push(Line::own(
            "chdir",
            absolute(Path::new("."))?.display(),
            "paths of the run file begin here",
        ));
        self.replace(&mut options)?;
        Ok(options)
    }

    /// `--partition`, `--constraint` and `--sbatch`.
    fn replace(&self, options: &mut Vec<Line>) -> Result<()> {
        let arguments = self.arguments;
        let named = [("partition", &arguments.partition), ("constraint", &arguments.constraint)];
        let mut asked: Vec<(String, String)> =
            named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?))).collect();
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
            _ if self.on_gpus => lines.push(Line::own("mpi", "none", "ranks with GPUs meet without MPI")),
            Some(fact) => lines.push(of_fact("mpi", fact.value.clone(), fact)),
            None => {}
        }
        let why = "a rank that hangs is ended with the others; 75 stays 75, since all have saved by then";
        lines.push(Line::own("kill-on-bad-exit", 1, why));
        lines.push(Line::own("wait", 120, "when one rank has ended, the others have seconds to follow"));
        lines.extend(self.profile.srun.iter().map(of_setting));
        lines
    }

    fn program(&self) -> Vec<String> {
        let arguments = self.arguments;
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

fn of_setting(setting: &Setting) -> Line {
    let Setting { name, value, why, from } = setting.clone();
    Line { name, value, why, from: Some(from) }
}

fn of_fact<T>(name: &str, value: String, fact: &Fact<T>) -> Line {
    Line { name: name.to_owned(), value, why: fact.why.clone(), from: Some(fact.from.clone()) }
}
