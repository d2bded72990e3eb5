//! Whole runs of the built binary: a tiny model on a corpus that is made once per test program.

#![allow(dead_code, reason = "every test program uses its own part")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_tisserand");

/// Longer than any wait of these tests on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The last step of a run that has none.
const NEVER: u64 = 100_000_000;

/// Tokenizer and token file of the tests.
pub(crate) struct Corpus {
    dir: PathBuf,
}

impl Corpus {
    /// The corpus of this test program, made at the first call.
    pub(crate) fn get() -> &'static Corpus {
        static CORPUS: OnceLock<Corpus> = OnceLock::new();
        CORPUS.get_or_init(|| {
            // Under a fixed name, since a static is never dropped: the next start of the program replaces it.
            let name = concat!("corpus-", env!("CARGO_CRATE_NAME"));
            let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
            let _ = fs::remove_dir_all(&dir);
            Corpus::make(dir)
        })
    }

    fn make(dir: PathBuf) -> Corpus {
        let text = dir.join("text");
        write_texts(&text);
        let corpus = Corpus { dir };
        let (tokenizer, pattern) = (corpus.tokenizer(), text.join("*.txt"));
        let pattern = pattern.to_str().unwrap();
        tisserand(["tokenizer", "train", "--vocab-size", "300", "--out", &tokenizer, pattern]);
        tisserand(["data", "tokenize", "--tokenizer", &tokenizer, "--out", &corpus.tokens(), pattern]);
        corpus
    }

    /// Its `tokenizer.json`, of 300 entries.
    pub(crate) fn tokenizer(&self) -> String {
        self.dir.join("tokenizer.json").display().to_string()
    }

    /// The prefix of its token file.
    pub(crate) fn tokens(&self) -> String {
        self.dir.join("tokens").display().to_string()
    }
}

/// Writes the documents, one file each, into a new folder.
pub(crate) fn write_texts(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    for document in 0..60 {
        fs::write(dir.join(format!("{document:02}.txt")), sentences(document)).unwrap();
    }
}

/// A document of 1 to 40 sentences: most are shorter than a sequence, some longer.
fn sentences(document: u64) -> String {
    const WORDS: [&str; 12] =
        ["the", "weaver", "thread", "loom", "red", "wool", "draws", "over", "under", "and", "a", "pattern"];
    let mut random = Random(document + 1);
    let mut text = String::new();
    for _ in 0..=random.below(1 + document % 40) {
        for _ in 0..3 + random.below(6) {
            text += WORDS[random.below(WORDS.len() as u64) as usize];
            text.push(' ');
        }
        text.push_str(".\n");
    }
    text
}

/// Reproducible random numbers (splitmix64: Steele, Lea and Flood, 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Runs the binary, which must succeed; its standard output.
pub(crate) fn tisserand<'a>(arguments: impl IntoIterator<Item = &'a str>) -> String {
    let arguments: Vec<&str> = arguments.into_iter().collect();
    let output = Command::new(BINARY).args(&arguments).output().unwrap();
    assert!(output.status.success(), "tisserand {}: {}", arguments.join(" "), errors(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The standard error of a command.
pub(crate) fn errors(output: &Output) -> String {
    format!("{:?}: {}", output.status.code(), String::from_utf8_lossy(&output.stderr))
}

/// A run in a folder of its own.
pub(crate) struct Run {
    temp: TempDir,
    /// `--set` of every start.
    sets: Vec<String>,
    /// `--ranks` of every start; `None`: not given.
    ranks: Option<usize>,
    /// Whether its end may be set between starts, by [`Run::end_at`].
    is_endless: bool,
}

impl Run {
    /// A run of the tiny model with these keys on top.
    pub(crate) fn new(sets: &[&str]) -> Run {
        let corpus = Corpus::get();
        let temp = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let text = format!(
            r#"config_version = 1
[run]
name = "tiny"
dir = "{dir}"
threads = 1
plan_check = "error"
[model]
vocab_size = 320
hidden_size = 32
intermediate_size = 48
num_layers = 2
num_heads = 2
num_kv_heads = 1
[tokenizer]
path = "{tokenizer}"
[data]
sources = [{{ path = "{tokens}" }}]
validation_fraction = 0.1
[training]
seq_len = 32
global_batch = 4
micro_batch = 2
steps = 10
[optimizer]
lr = 1e-2
[schedule]
warmup_steps = 2
[checkpoint]
every_minutes = 0
[eval]
every_steps = 4
[log]
every_steps = 1
tensorboard = false
"#,
            dir = temp.path().join("run").display(),
            tokenizer = corpus.tokenizer(),
            tokens = corpus.tokens(),
        );
        fs::write(temp.path().join("run.toml"), text).unwrap();
        let sets = sets.iter().map(|set| (*set).to_owned()).collect();
        Run { temp, sets, ranks: None, is_endless: false }
    }

    /// A run that goes on until something stops it: a test that does something to it does not race against its end,
    /// however fast the machine. Its learning rate is constant after the warm-up, so that each step is also that of a
    /// run with an end.
    pub(crate) fn endless(sets: &[&str]) -> Run {
        let mut run = Run::new(&["schedule.name=constant"]);
        run.set(sets);
        run.is_endless = true;
        run.end_at(NEVER);
        run
    }

    /// Starts of an endless run end after this step from now on, also those whose command is written down already.
    pub(crate) fn end_at(&self, step: u64) {
        assert!(self.is_endless);
        let path = self.temp.path().join("run.toml");
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().map(|line| match line.starts_with("steps = ") {
            true => format!("steps = {step}\n"),
            false => format!("{line}\n"),
        });
        fs::write(&path, lines.collect::<String>()).unwrap();
    }

    /// Has an endless run end a few steps after those that it has done, and `whole`, which nothing happens to, with
    /// it.
    pub(crate) fn end_soon(&self, whole: &Run) {
        let last = self.status_step().unwrap() + 10;
        self.end_at(last);
        whole.end_at(last);
    }

    /// The same run file, in a folder of its own, with more keys on top.
    pub(crate) fn and(&self, sets: &[&str]) -> Run {
        let mut run = Run::new(sets);
        run.sets.splice(0..0, self.sets.iter().cloned());
        run.ranks = self.ranks;
        if self.is_endless {
            run.is_endless = true;
            run.end_at(NEVER);
        }
        run
    }

    /// Starts on so many ranks from now on.
    pub(crate) fn set_ranks(&mut self, ranks: usize) {
        self.ranks = Some(ranks);
    }

    /// Lays more keys on top of those so far.
    pub(crate) fn set(&mut self, sets: &[&str]) {
        self.sets.extend(sets.iter().map(|set| (*set).to_owned()));
    }

    /// A run that builds tokenizer and token file from these texts first.
    pub(crate) fn prepared(texts: &Path, sets: &[&str]) -> Run {
        let run = Run::new(sets);
        let path = run.temp.path().join("run.toml");
        let mut table: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
        table.remove("tokenizer");
        let data = table["data"].as_table_mut().unwrap();
        data.remove("sources");
        let mut prepare = toml::Table::new();
        prepare.insert("vocab_size".to_owned(), 300.into());
        prepare.insert("text".to_owned(), vec![texts.join("*.txt").display().to_string()].into());
        data.insert("prepare".to_owned(), prepare.into());
        fs::write(&path, table.to_string()).unwrap();
        run
    }

    /// The run folder.
    pub(crate) fn dir(&self) -> PathBuf {
        self.temp.path().join("run")
    }

    /// The run folder as an argument.
    pub(crate) fn dir_name(&self) -> String {
        self.dir().display().to_string()
    }

    /// Run file and `--set` for any command that takes a run file.
    pub(crate) fn run_file(&self) -> Vec<String> {
        let mut arguments = vec![self.temp.path().join("run.toml").display().to_string()];
        for set in &self.sets {
            arguments.extend(["--set".to_owned(), set.clone()]);
        }
        arguments
    }

    /// The command that starts the run.
    pub(crate) fn command(&self) -> Command {
        let mut command = self.loud_command();
        command.arg("--quiet");
        command
    }

    /// The same without `--quiet`.
    pub(crate) fn loud_command(&self) -> Command {
        let mut command = Command::new(BINARY);
        command.arg("train").args(self.run_file()).env_remove("SLURM_JOB_ID");
        command.args(self.ranks.map(|ranks| format!("--ranks={ranks}")));
        if self.is_endless {
            command.args(["--allow-change", "training.steps"]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts the run and goes on.
    pub(crate) fn spawn(&self) -> Child {
        self.command().spawn().unwrap()
    }

    /// Runs to the end of the process.
    pub(crate) fn start(&self) -> Output {
        self.command().output().unwrap()
    }

    /// Runs to the end of the process, which must exit with `code`; what it wrote to standard error.
    pub(crate) fn exits(&self, code: i32) -> String {
        let output = self.start();
        assert_eq!(output.status.code(), Some(code), "{:?}: {}", self.sets, errors(&output));
        String::from_utf8(output.stderr).unwrap()
    }

    /// The newest checkpoint's digest.
    pub(crate) fn digest(&self) -> String {
        tisserand(["checkpoint", "digest", &self.dir_name()])
    }

    /// The folder of a checkpoint.
    pub(crate) fn checkpoint(&self, step: u64) -> PathBuf {
        self.dir().join(format!("checkpoints/step-{step:08}"))
    }

    /// What status.json says.
    pub(crate) fn status(&self) -> Value {
        serde_json::from_slice(&fs::read(self.dir().join("status.json")).unwrap()).unwrap()
    }

    /// The step of status.json, which is read while the run replaces it; `None` before there is one.
    pub(crate) fn status_step(&self) -> Option<u64> {
        let text = fs::read(self.dir().join("status.json")).ok()?;
        serde_json::from_slice::<Value>(&text).ok()?["step"].as_u64()
    }

    /// All whole records of one type in metrics.jsonl; none if there is no file.
    pub(crate) fn records(&self, of_type: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.dir().join("metrics.jsonl")).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let records = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        records.filter(|record| record["type"] == of_type).collect()
    }

    /// What the steps and validations computed, without times: step to values, each step once.
    pub(crate) fn history(&self) -> BTreeMap<(u64, String), Vec<Value>> {
        const STEP: [&str; 8] =
            ["loss", "z_loss", "loss_z", "grad_norm", "grad_norm_z", "lr", "tokens", "skipped"];
        const EVAL: [&str; 3] = ["loss", "perplexity", "tokens"];
        let mut history = BTreeMap::new();
        for (of_type, fields) in [("step", &STEP[..]), ("eval", &EVAL[..])] {
            for record in self.records(of_type) {
                let values = fields.iter().map(|field| record[*field].clone()).collect();
                let step = record["step"].as_u64().unwrap();
                let twice = history.insert((step, of_type.to_owned()), values);
                assert!(twice.is_none(), "metrics.jsonl has {of_type} {step} twice");
            }
        }
        history
    }

    /// The loss of every step.
    pub(crate) fn losses(&self) -> Vec<f64> {
        self.records("step").iter().map(|record| record["loss"].as_f64().unwrap()).collect()
    }

    /// Waits until `done`, which must come before the process ends.
    pub(crate) fn wait_until(&self, child: &mut Child, what: &str, done: impl Fn(&Run) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(child.try_wait().unwrap().is_none(), "the run ended before {what}");
            assert!(start.elapsed() < PATIENCE, "{what} did not come");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Asserts that this run and `other` computed the same bits: every record and the newest checkpoint.
    pub(crate) fn assert_equals(&self, other: &Run) {
        assert_eq!(self.history(), other.history(), "{:?} and {:?}", self.sets, other.sets);
        assert_eq!(self.digest(), other.digest(), "{:?} and {:?}", self.sets, other.sets);
    }
}
