//! One file per command. Each returns the exit code.

mod accept;
mod bench;
mod checkpoint;
mod config;
mod data;
mod doctor;
mod eval;
mod generate;
mod launch;
mod plan;
mod plot;
mod submit;
mod tokenizer;
mod train;

use std::path::PathBuf;

use tisserand_runtime::config::{Config, Ranks};
use tisserand_runtime::{Error, Result};

use crate::cli::{Command, RunFile};
use crate::env;
use crate::node::Node;

/// Exit code of a command that did what it was asked.
const DONE: u8 = 0;

/// Exit code of a comparison that found differences, and of a check that found faults.
const FAILED: u8 = 1;

/// Runs one command.
pub fn run(command: Command) -> Result<u8> {
    match command {
        Command::Train(arguments) => train::run(arguments),
        Command::Launch(arguments) => launch::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Plot(arguments) => plot::run(&arguments),
        Command::Submit(arguments) => submit::run(&arguments),
        Command::Eval(arguments) => eval::run(&arguments),
        Command::Generate(arguments) => generate::run(&arguments),
        Command::Tokenizer(command) => tokenizer::run(command),
        Command::Data(command) => data::run(command),
        Command::Checkpoint(command) => checkpoint::run(command),
        Command::Config(command) => config::run(command),
        Command::Bench(command) => bench::run(&command),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Accept(arguments) => accept::run(&arguments),
    }
}

fn load(run_file: &RunFile, ranks: Ranks) -> Result<Config> {
    Config::load(&run_file.path, &run_file.sets, ranks, &env::variable)
}

/// The same on a rank of a run, read once on each machine; with the text as it was written, where it was read.
fn load_on(node: &mut Node, run_file: &RunFile, size: usize) -> Result<(Config, String)> {
    let (mut text, file) = (String::new(), run_file.path.display().to_string());
    let config = node.config(|| {
        text = Config::read(&run_file.path)?;
        Config::parse(&text, &file, &run_file.sets, Some(size), &env::variable)
    })?;
    Ok((config, text))
}

/// Files that patterns name, in sorted order; a plain name stands for itself.
fn expand(patterns: &[String]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for pattern in patterns {
        let wrong = |error: &dyn std::fmt::Display| Error::input(format!("{pattern:?}: {error}"));
        let found = glob::glob(pattern).map_err(|error| wrong(&error))?;
        let mut found: Vec<PathBuf> = found.collect::<Result<_, _>>().map_err(|error| wrong(&error))?;
        found.retain(|path| path.is_file());
        if found.is_empty() {
            return Err(Error::input(format!(
                "{pattern:?}: no such file; hint: quote patterns for the shell"
            )));
        }
        files.extend(found);
    }
    Ok(files)
}
