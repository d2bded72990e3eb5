//! The run file: TOML as written becomes one validated [`Config`], or one line that says what is wrong.
//!
//! The way of a run file: `set` lays `--set` over it and expands `${VAR}`; `unknown` refuses keys that `keys` does
//! not list, with the nearest one (`aliases` knows other trainers' names); `validate`, `mesh`, `lengths`, `model` and `data`
//! read each section through `raw`, fill the defaults and cross-check. `write` prints the result as
//! `resolved.toml`; `diff` says what changed since the last start.
//!
//! Nothing here touches data files or devices. `docs/run-file.md` is the user's page.

mod aliases;
mod data;
mod diff;
mod keys;
mod lengths;
mod mesh;
mod model;
pub(crate) mod model_check;
mod optimizer;
mod presets;
mod raw;
mod schedule;
mod sections;
mod set;
mod unknown;
mod validate;
mod write;

pub use diff::{ChangeKind, Difference, diff, refuse_changes};
pub use keys::reference_table;
pub use mesh::Ranks;
pub use optimizer::{Group, Optimizer};
pub(crate) use raw::one_of;
pub use schedule::{DecayShape, Schedule, ScheduleKind};
pub use sections::*;

use std::path::Path;

use crate::model_config::ModelConfig;
use crate::{Error, Result};

/// A run file after validation: every default filled, every length in steps. Fields are named as in the file.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Name, folder, device and limits of the run.
    pub run: Run,
    /// The model, from a preset, a Hugging Face `config.json` or keys.
    pub model: ModelConfig,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// What is trained and validated on.
    pub data: Data,
    /// Lengths and batch.
    pub training: Training,
    /// AdamW.
    pub optimizer: Optimizer,
    /// The learning rate over the run.
    pub schedule: Schedule,
    /// How ranks share the work.
    pub mesh: Mesh,
    /// Storage types.
    pub precision: Precision,
    /// What backward computes again.
    pub recompute: Recompute,
    /// When checkpoints are written and kept.
    pub checkpoint: Checkpoint,
    /// Where weights come from.
    pub init: InitFrom,
    /// Validation.
    pub eval: Eval,
    /// Reports.
    pub log: Log,
    /// Which results do not depend on the mesh.
    pub determinism: Determinism,
}

impl Config {
    /// Reads the run file at `path`, lays the `--set section.key=value` of `sets` over it, and validates.
    ///
    /// `ranks` are those that the run is started on. `environment` looks up the variables of `${VAR}`. Relative paths in the file stay as written: they
    /// are relative to the current directory, as in any other tool, not to the run file.
    ///
    /// Errors are [`Error::Input`], one line each, with file (or `--set`), dotted key, value and what is allowed.
    pub fn load(
        path: &Path,
        sets: &[String],
        ranks: Ranks,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Config> {
        Config::parse(&Config::read(path)?, &path.display().to_string(), sets, ranks, environment)
    }

    /// The text of a run file.
    ///
    /// # Errors
    /// It cannot be read, or is no text.
    pub fn read(path: &Path) -> Result<String> {
        std::fs::read_to_string(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData => {
                Error::input(format!("{}: not UTF-8 text; a run file is TOML", path.display()))
            }
            _ => crate::files::io_error("read the run file", path, &error),
        })
    }

    /// As [`Config::load`] with the text of [`Config::read`]; `file` names it in messages and, without its folder and
    /// extension, is the default of `run.name`.
    pub fn parse(
        text: &str,
        file: &str,
        sets: &[String],
        ranks: Ranks,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Config> {
        let mut table = set::parse_file(text, file)?;
        let origin = raw::Origin { file: file.to_owned(), sets: set::apply(&mut table, sets)? };
        let root = raw::Section::root(&origin, &table);
        validate::check_version(&root)?;
        unknown::check(&table, &origin)?;
        set::expand(&mut table, &origin, environment)?;
        validate::validate(&raw::Section::root(&origin, &table), ranks)
    }

    /// The text of `resolved.toml`: every key with its value after defaults and derivations. Loading it gives
    /// an equal `Config`.
    pub fn to_toml(&self) -> String {
        write::to_toml(self)
    }

    /// Tokens of one step: `global_batch · seq_len`.
    pub fn tokens_per_step(&self) -> u64 {
        self.training.global_batch as u64 * self.training.seq_len as u64
    }

    /// Micro-steps of one step: `global_batch / (micro_batch · dp)`.
    pub fn grad_accum(&self) -> usize {
        self.training.global_batch / (self.training.micro_batch * self.mesh.dp())
    }
}
