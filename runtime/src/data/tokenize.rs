//! From text files and a tokenizer to a token file.

use std::path::{Path, PathBuf};

use super::document_encoder::encode_in_order;
use super::documents::{documents, total_bytes};
use super::progress::Progress;
use super::token_writer::TokenFileWriter;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// What was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// Documents; empty ones are left out.
    pub documents: u64,
    /// Tokens, one end-of-text token per document included.
    pub tokens: u64,
    /// Bytes of text.
    pub bytes: u64,
}

/// Encodes the documents of `inputs` (see [`documents`]) in order, each followed by the tokenizer's
/// end-of-text token, into `OUT_PREFIX.bin` and `OUT_PREFIX.idx`. Uses all cores; the result does not
/// depend on their number.
///
/// # Errors
/// What [`documents`] finds in a file; no text at all; a tokenizer without an end-of-text token; a folder
/// that cannot be written. Nothing is left under the name then.
pub fn tokenize(
    inputs: &[PathBuf],
    tokenizer: &Tokenizer,
    out_prefix: &Path,
    progress: Progress,
) -> Result<Report> {
    let end_of_text = tokenizer.require_end_of_text()?;
    let stage = progress.stage("tokenizing", total_bytes(inputs)?);
    let mut writer = TokenFileWriter::create(out_prefix, tokenizer.vocab_size())?;
    let mut bytes = 0;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    encode_in_order(&tokenizer.for_documents(), documents(inputs), threads, |piece| {
        writer.push_tokens(&piece.tokens)?;
        if piece.ends_document {
            writer.push_document(&[end_of_text])?;
        }
        bytes += piece.text_bytes;
        stage.advance(piece.file_bytes);
        Ok(())
    })?;
    let report = Report { documents: writer.documents(), tokens: writer.tokens(), bytes };
    if report.documents == 0 {
        let first = inputs.first().map_or_else(String::new, |path| path.display().to_string());
        let count = inputs.len();
        return Err(Error::input(format!(
            "{first}: no text in it, nor in the others of {count} input files"
        )));
    }
    writer.finish()?;
    stage.finish();
    Ok(report)
}
