//! A job as the text that sbatch takes.

use std::collections::BTreeMap;

use tisserand_runtime::{Error, Result};

use super::template::{self, Values};

/// The column at which reasons begin behind options.
const REASONS: usize = 48;

/// An option, a variable or a list of modules, with its reason and the name of its source. Lines that the
/// program adds by itself have no source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// Without dashes.
    pub name: String,
    /// Empty for an option that has none.
    pub value: String,
    /// May be empty.
    pub why: String,
    /// A key of [`Job::sources`].
    pub from: Option<String>,
}

impl Line {
    /// A line of the program's own.
    pub fn own(name: &str, value: impl ToString, why: &str) -> Line {
        Line { name: name.to_owned(), value: value.to_string(), why: why.to_owned(), from: None }
    }

    fn reason(&self) -> String {
        let from = self.from.as_ref().map(|from| format!("[{from}]"));
        let parts = [Some(self.why.clone()).filter(|why| !why.is_empty()), from];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

/// What a job does when it has stopped early with a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    /// Goes back into the queue.
    Requeue,
    /// Leaves it to the next job of its name.
    Chain,
    /// Ends.
    Once,
}

/// Everything that a script says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Job {
    /// The machine, for people.
    pub machine: String,
    /// Its page.
    pub page: String,
    /// The command that made the script.
    pub command: Vec<String>,
    /// Of sbatch, in order.
    pub options: Vec<Line>,
    /// Names in `value`, separated by spaces.
    pub modules: Option<Line>,
    /// Environment.
    pub variables: Vec<Line>,
    /// `value`: seconds of warning.
    pub signal_lead_s: Line,
    /// `value` is added to the first host's name.
    pub first_host_suffix: Option<Line>,
    /// Whether ranks run on GPUs.
    pub on_gpus: bool,
    /// Of srun, in order.
    pub srun: Vec<Line>,
    /// The program and its arguments.
    pub program: Vec<String>,
    /// The run's folder of job folders.
    pub jobs: String,
    /// What comes after an early stop.
    pub then: Then,
    /// Where lines are from, by name.
    pub sources: BTreeMap<String, String>,
}

impl Job {
    /// The script.
    ///
    /// # Errors
    /// Input, if a value has a line break or another control character in it.
    pub fn render(&self) -> Result<String> {
        self.refuse_control_characters()?;
        let when = |condition: bool| if condition { vec![String::new()] } else { Vec::new() };
        let suffix = self.first_host_suffix.as_ref();
        let values = Values::from([
            ("machine", vec![self.machine.clone()]),
            ("page", vec![self.page.clone()]),
            ("command", vec![shell_words(&self.command)]),
            ("options", self.options.iter().map(option).collect()),
            ("modules", self.modules.iter().flat_map(|line| self.load(line)).collect()),
            ("variables", self.variables.iter().flat_map(variable).collect()),
            ("lead", vec![self.signal_lead_s.value.clone()]),
            ("lead_why", vec![format!("Seconds of warning: {}", self.signal_lead_s.reason())]),
            ("cpus", when(self.options.iter().any(|line| line.name == "cpus-per-task"))),
            ("suffix", suffix.map(|line| line.value.clone()).into_iter().collect()),
            ("suffix_why", suffix.map(Line::reason).into_iter().collect()),
            ("binary", self.program.first().map(|binary| shell_word(binary)).into_iter().collect()),
            ("gpus", when(self.on_gpus)),
            ("srun", self.srun.iter().map(|line| format!("        {} \\", dashed(line))).collect()),
            (
                "srun_why",
                self.srun.iter().map(|line| format!("# {}: {}", dashed(line), line.reason())).collect(),
            ),
            ("program", vec![shell_words(&self.program)]),
            ("jobs", vec![shell_word(&self.jobs)]),
            ("requeue", when(self.then == Then::Requeue)),
            ("chain", when(self.then == Then::Chain)),
            ("once", when(self.then == Then::Once)),
            ("sources", self.used_sources()),
        ]);
        Ok(template::fill(include_str!("../../templates/job.sbatch"), &values))
    }

    fn load(&self, line: &Line) -> Vec<String> {
        let names: Vec<String> = line.value.split(' ').map(str::to_owned).collect();
        let otherwise = if self.then == Then::Chain { "stop 2" } else { "exit 2" };
        vec![
            format!("# {}", line.reason()),
            "module purge".to_owned(),
            format!("module load {} || {otherwise}", shell_words(&names)),
        ]
    }

    fn lines(&self) -> impl Iterator<Item = &Line> {
        let lists = [&self.options, &self.variables, &self.srun].into_iter().flatten();
        lists.chain(&self.modules).chain(&self.first_host_suffix).chain([&self.signal_lead_s])
    }

    fn used_sources(&self) -> Vec<String> {
        let used: Vec<&String> = self.lines().filter_map(|line| line.from.as_ref()).collect();
        let listed = self.sources.iter().filter(|(name, _)| used.contains(name));
        listed.map(|(name, source)| format!("#   [{name}] {source}")).collect()
    }

    fn refuse_control_characters(&self) -> Result<()> {
        let words = self.command.iter().chain(&self.program).chain([&self.machine, &self.page, &self.jobs]);
        let lines = self.lines().flat_map(|line| [&line.name, &line.value, &line.why]);
        let texts = words.chain(lines).chain(self.sources.values());
        match texts.into_iter().find(|text| text.chars().any(char::is_control)) {
            Some(text) => Err(Error::input(format!(
                "{text:?} has a line break or another control character in it, which no job script can \
                 carry; hint: rename the file, or write it without"
            ))),
            None => Ok(()),
        }
    }
}

fn option(line: &Line) -> String {
    let option = format!("#SBATCH {}", dashed(line));
    match line.reason() {
        reason if reason.is_empty() => option,
        reason => format!("{option:<REASONS$}  # {reason}"),
    }
}

fn dashed(line: &Line) -> String {
    let Line { name, value, .. } = line;
    if value.is_empty() { format!("--{name}") } else { format!("--{name}={}", shell_word(value)) }
}

fn variable(line: &Line) -> Vec<String> {
    vec![format!("# {}", line.reason()), format!("export {}={}", line.name, shell_word(&line.value))]
}

/// Words as a shell takes them.
pub fn shell_words(words: &[String]) -> String {
    words.iter().map(|word| shell_word(word)).collect::<Vec<_>>().join(" ")
}

/// A word as a shell, and sbatch in its lines, take it: in single quotes where it has characters that mean
/// something.
fn shell_word(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,@%+^".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_their_meaning_in_a_shell() {
        for word in ["plain-1.2/x", "", "a b", "it's", "$HOME", "a;b", "[1, 2]", "k=\"v\"", "ä"] {
            let output = std::process::Command::new("bash")
                .args(["-c", &format!("printf %s {}", shell_word(word))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }

    #[test]
    fn a_line_break_cannot_smuggle_in_a_command() {
        let job = Job {
            machine: "M".into(),
            page: "P".into(),
            command: vec!["tisserand".into()],
            options: vec![Line::own("job-name", "a\nrm -r x", "")],
            modules: None,
            variables: Vec::new(),
            signal_lead_s: Line::own("signal", 1, "w"),
            first_host_suffix: None,
            on_gpus: false,
            srun: Vec::new(),
            program: vec!["tisserand".into()],
            jobs: "jobs".into(),
            then: Then::Once,
            sources: BTreeMap::new(),
        };
        let refusal = job.render().unwrap_err().to_string();
        assert!(refusal.contains("\"a\\nrm -r x\"") && !refusal.contains('\n'), "{refusal}");
    }
}
