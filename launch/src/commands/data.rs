//! `tisserand data`

use std::ops::Range;
use std::path::Path;

use serde_json::json;
use tisserand_runtime::data::{self, Dataset, Progress, StepOrder, TokenFile};
use tisserand_runtime::log::units;
use tisserand_runtime::tokenizer::Tokenizer;
use tisserand_runtime::train::{corpus, setup};
use tisserand_runtime::{Error, Result};

use super::{DONE, expand, load};
use crate::{cli, output};

/// Makes and looks at token files.
pub(super) fn run(command: cli::Data) -> Result<u8> {
    match command {
        cli::Data::Tokenize { out, tokenizer, inputs } => {
            let (inputs, tokenizer) = (expand(&inputs)?, Tokenizer::open(&tokenizer)?);
            let report = data::tokenize(&inputs, &tokenizer, &out, Progress::Stderr)?;
            output::line(&format!(
                "{}: {} documents, {} tokens from {}",
                out.display(),
                report.documents,
                report.tokens,
                units::bytes(report.bytes)
            ))?;
        }
        cli::Data::Inspect { prefix, json } => inspect(&prefix, json)?,
        cli::Data::Order { run_file, steps } => {
            let config = load(&run_file, None)?;
            let steps = parse_steps(&steps)?;
            let sources = corpus::sources(&config)?;
            let dataset = Dataset::open(&sources, corpus::dataset_config(&config))?;
            let order = StepOrder::new(config.training.global_batch, &setup::skipped(&config))?;
            output::line(&data::order_hash(&dataset, &order, steps))?;
        }
    }
    Ok(DONE)
}

fn inspect(prefix: &Path, as_json: bool) -> Result<()> {
    let file = TokenFile::open(prefix)?;
    let index = file.index();
    let (documents, tokens) = (index.documents(), index.tokens());
    let dtype = format!("{:?}", index.token_type()).to_lowercase();
    if as_json {
        return output::line(
            &json!({"prefix": prefix, "documents": documents, "tokens": tokens, "dtype": dtype}).to_string(),
        );
    }
    output::line(&format!("{}: {documents} documents, {tokens} tokens of {dtype}", prefix.display()))
}

/// Steps `A..B`, both counted from 1 and included, as the trainer's steps counted from 0.
fn parse_steps(text: &str) -> Result<Range<u64>> {
    let wrong = || Error::input(format!("--steps {text}: must be FIRST..LAST, e.g. 1..100"));
    let (first, last) = text.split_once("..").ok_or_else(wrong)?;
    let (first, last): (u64, u64) = (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
    if first == 0 || last < first { Err(wrong()) } else { Ok(first - 1..last) }
}
