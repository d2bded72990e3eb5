//! Training of a byte-level BPE tokenizer.

use std::collections::HashSet;

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    TokenizerBuilder,
};

use super::pieces::cut;
use super::{END_OF_TEXT, Tokenizer, one_line};
use crate::{Error, Result};

/// One special token and all bytes.
const MIN_VOCAB_SIZE: usize = 257;
/// A pair seen once is not worth an entry.
const MIN_FREQUENCY: u64 = 2;
/// Texts are counted in pieces of this size, so that one long text occupies all cores.
const PIECE_BYTES: usize = 256 << 10;

impl Tokenizer {
    /// Trains byte-level BPE with the split of GPT-2 (Radford et al. 2019, "Language Models are Unsupervised
    /// Multitask Learners", §2.2) on `texts`, which are read once and not kept. Id 0 is `<|endoftext|>`, ids
    /// 1 to 256 are the bytes. Any text can be encoded and decodes to itself.
    ///
    /// The vocabulary is smaller than `vocab_size` when the texts run out of pairs that occur twice.
    ///
    /// # Errors
    /// `vocab_size` below 257; the first error among `texts`.
    pub fn train(texts: impl Iterator<Item = Result<String>> + Send, vocab_size: usize) -> Result<Self> {
        if vocab_size < MIN_VOCAB_SIZE {
            return Err(Error::input(format!(
                "vocab_size = {vocab_size} is too small for a tokenizer; hint: all bytes and one special token \
                 need {MIN_VOCAB_SIZE}"
            )));
        }
        let mut failed = None;
        let good_texts = texts.map_while(|text| text.map_err(|error| failed = Some(error)).ok());
        let pieces =
            good_texts.flat_map(|text| cut(&text, PIECE_BYTES).map(str::to_owned).collect::<Vec<_>>());
        let json = train_json(pieces, vocab_size);
        match failed {
            Some(error) => Err(error),
            None => Self::from_json("new tokenizer".into(), json.map_err(|e| fault(&e))?),
        }
    }
}

fn fault(error: &tokenizers::Error) -> Error {
    Error::fault(format!("training the tokenizer: {}", one_line(error)))
}

fn train_json(
    pieces: impl Iterator<Item = String> + Send,
    vocab_size: usize,
) -> Result<String, tokenizers::Error> {
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .min_frequency(MIN_FREQUENCY)
        .show_progress(false)
        .special_tokens(vec![AddedToken::from(END_OF_TEXT[0], true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect::<HashSet<char>>())
        .build();
    let mut tokenizer = TokenizerBuilder::<
        BPE,
        NormalizerWrapper,
        PreTokenizerWrapper,
        PostProcessorWrapper,
        DecoderWrapper,
    >::new()
    .with_model(BPE::default())
    .with_pre_tokenizer(Some(ByteLevel::new(false, false, true).into()))
    .with_decoder(Some(ByteLevel::default().into()))
    .build()?;
    tokenizer.train(&mut trainer, pieces)?;
    tokenizer.to_string(true)
}
