//! `tisserand tokenizer`

use std::io::Read;

use tisserand_runtime::data::Progress;
use tisserand_runtime::tokenizer::Tokenizer;
use tisserand_runtime::{Error, Result, data};

use super::{DONE, expand};
use crate::{cli, output};

/// Trains or applies a tokenizer.
pub(super) fn run(command: cli::Tokenizer) -> Result<u8> {
    match command {
        cli::Tokenizer::Train { out, vocab_size, inputs } => {
            let inputs = expand(&inputs)?;
            let tokenizer = data::train_tokenizer(&inputs, vocab_size, Progress::Stderr)?;
            tokenizer.save(&out)?;
            output::line(&format!("{}: {} entries", out.display(), tokenizer.vocab_size()))?;
        }
        cli::Tokenizer::Encode { tokenizer, text } => {
            let text = text.map_or_else(standard_input, Ok)?;
            let ids = Tokenizer::open(&tokenizer)?.encode(&text)?;
            let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
            output::line(&ids.join(" "))?;
        }
        cli::Tokenizer::Decode { tokenizer, ids } => {
            output::line(&Tokenizer::open(&tokenizer)?.decode(&ids)?)?;
        }
    }
    Ok(DONE)
}

fn standard_input() -> Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| Error::input(format!("standard input: {error}")))?;
    Ok(text)
}
