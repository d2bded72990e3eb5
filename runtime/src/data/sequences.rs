//! Samples of fixed length over the token files of one source.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::catalogue::{Catalogue, Entry};
use super::token_file::TokenFile;
use crate::{Error, Result};

/// A range of tokens of one file.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) file: Arc<TokenFile>,
    pub(crate) start: u64,
    pub(crate) tokens: u64,
}

/// Opens the token files of `path`: a prefix, or a glob of prefixes taken in the order of their names. What the
/// catalogue knows of is not looked for; the rest is checked, and added.
pub(super) fn open_spans(path: &str, catalogue: &mut Catalogue) -> Result<Vec<Span>> {
    let span = |file: TokenFile| Span { start: 0, tokens: file.index().tokens(), file: Arc::new(file) };
    if let Some(known) = catalogue.get(path) {
        return known
            .iter()
            .map(|entry| Ok(span(TokenFile::join(&entry.prefix, entry.facts, &catalogue.opener)?)))
            .collect();
    }
    let prefixes = if path.contains(['*', '?', '[']) { expand(path)? } else { vec![PathBuf::from(path)] };
    let spans: Vec<Span> = prefixes
        .iter()
        .map(|prefix| Ok(span(TokenFile::open_by(&catalogue.opener, prefix)?)))
        .collect::<Result<_>>()?;
    let entry = |(prefix, span): (PathBuf, &Span)| Entry { prefix, facts: span.file.index().facts() };
    catalogue.insert(path, prefixes.into_iter().zip(&spans).map(entry).collect());
    Ok(spans)
}

fn expand(pattern: &str) -> Result<Vec<PathBuf>> {
    let bad = |what: String| Error::input(format!("data.sources, path `{pattern}`: {what}"));
    let paths = glob::glob(&format!("{pattern}.idx")).map_err(|e| bad(format!("bad pattern: {}", e.msg)))?;
    let mut prefixes = Vec::new();
    for path in paths {
        let path = path.map_err(|e| bad(e.to_string()))?;
        prefixes.push(path.with_extension(""));
    }
    if prefixes.is_empty() {
        return Err(bad(format!(
            "no file matches {pattern}.idx; hint: give the prefix of a .bin and an .idx file"
        )));
    }
    prefixes.sort_unstable();
    Ok(prefixes)
}

/// Splits off the last documents: as many as fit into `fraction` of the tokens.
///
/// # Errors
/// When not even the last document fits; `path` names the source in the message.
pub(crate) fn split_last_documents(
    mut spans: Vec<Span>,
    fraction: f64,
    path: &str,
) -> Result<(Vec<Span>, Vec<Span>)> {
    let total: u64 = spans.iter().map(|span| span.tokens).sum();
    let mut room = (total as f64 * fraction) as u64;
    let mut held_out = Vec::new();
    while let Some(span) = spans.pop_if(|span| span.tokens <= room) {
        room -= span.tokens;
        held_out.insert(0, span);
    }
    if let Some(last) = spans.last_mut() {
        let index = last.file.index();
        let cut = index.document_start(index.first_document_from(last.tokens - room));
        if cut < last.tokens {
            held_out.insert(0, Span { file: last.file.clone(), start: cut, tokens: last.tokens - cut });
            last.tokens = cut;
        }
    }
    if held_out.iter().all(|span| span.tokens == 0) {
        return Err(Error::input(format!(
            "data.validation_fraction = {fraction}: the last document of {path} is longer than that share of \
             its {total} tokens; hint: tokenize smaller documents, or name files in data.validation"
        )));
    }
    Ok((spans, held_out))
}

/// What a window is read into; reused from one sample to the next.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// `seq_len + 1` tokens.
    pub(crate) tokens: Vec<u32>,
    /// Offsets in `1..=seq_len` at which a document begins, ascending.
    pub(crate) starts: Vec<usize>,
    bytes: Vec<u8>,
}

/// The samples of a source: sample k of a file = its tokens `[k·seq_len, (k + 1)·seq_len]`, seq_len + 1
/// tokens of which the last is also the first of sample k + 1. Fewer than seq_len + 1 tokens at the end of
/// a file are left out; files follow each other.
#[derive(Clone, Debug)]
pub struct Sequences {
    /// With the index of its first sample.
    spans: Vec<(u64, Span)>,
    seq_len: usize,
    vocab_size: usize,
    len: u64,
}

impl Sequences {
    pub(crate) fn new(spans: Vec<Span>, seq_len: usize, vocab_size: usize) -> Self {
        let mut len = 0;
        let numbered = |span: Span| {
            let first = len;
            len += span.tokens.saturating_sub(1) / seq_len as u64;
            (first, span)
        };
        let spans = spans.into_iter().map(numbered).collect();
        Sequences { spans, seq_len, vocab_size, len }
    }

    /// Number of samples.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of tokens, those of incomplete samples included.
    pub fn tokens(&self) -> u64 {
        self.spans.iter().map(|(_, span)| span.tokens).sum()
    }

    /// Tokens of a sample that are fed to the model.
    pub fn seq_len(&self) -> usize {
        self.seq_len
    }

    /// Ids are below this number, or reading them fails.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    pub(crate) fn spans(&self) -> impl Iterator<Item = &Span> {
        self.spans.iter().map(|(_, span)| span)
    }

    /// Reads sample `sample`.
    ///
    /// # Panics
    /// If there is no such sample: sample numbers are made here, not by users.
    pub(crate) fn read(&self, sample: u64, window: &mut Window) -> Result<()> {
        assert!(sample < self.len, "sample {sample} of {}", self.len);
        let (first, span) = &self.spans[self.spans.partition_point(|(first, _)| *first <= sample) - 1];
        let start = span.start + (sample - first) * self.seq_len as u64;
        window.tokens.resize(self.seq_len + 1, 0);
        span.file.read(start, &mut window.tokens, &mut window.bytes)?;
        check_vocabulary(span.file.path(), start, &window.tokens, self.vocab_size)?;

        let index = span.file.index();
        window.starts.clear();
        let documents = index.first_document_from(start + 1)..index.documents();
        let offsets = documents.map(|document| (index.document_start(document) - start) as usize);
        window.starts.extend(offsets.take_while(|&offset| offset <= self.seq_len));
        // Empty documents share their start with the next one.
        window.starts.dedup();
        Ok(())
    }
}

/// Fails on the first of `tokens`, read from position `start` of `path`, that is not below `vocab_size`.
pub(crate) fn check_vocabulary(path: &Path, start: u64, tokens: &[u32], vocab_size: usize) -> Result<()> {
    let largest = tokens.iter().copied().max().unwrap_or(0);
    if (largest as usize) < vocab_size {
        return Ok(());
    }
    let offset = tokens.iter().position(|&token| token as usize >= vocab_size).unwrap_or(0);
    Err(Error::input(format!(
        "{}: token {} at position {} is not below model.vocab_size = {vocab_size}; \
         hint: was the file written with another tokenizer?",
        path.display(),
        tokens[offset],
        start + offset as u64
    )))
}
