//! A token file: `PREFIX.bin`, tokens without gaps, and its index `PREFIX.idx`.
//!
//! Tokens are read by position, not mapped: an I/O error is then an error with a file name rather than a
//! signal, and one open file serves any number of threads.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::files::with_suffix;
use super::index::{Index, IndexFacts, TokenType};
use crate::files::io_error;
use crate::opener::Opener;
use crate::{Error, Result};

/// An open token file.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    file: File,
    index: Index,
}

impl TokenFile {
    /// Opens `PREFIX.bin` and `PREFIX.idx` and checks them against each other.
    ///
    /// # Errors
    /// One line naming the file and what is wrong with it.
    pub fn open(prefix: &Path) -> Result<Self> {
        Self::open_by(&Opener::default(), prefix)
    }

    pub(super) fn open_by(opener: &Opener, prefix: &Path) -> Result<Self> {
        let (path, index_path) = (with_suffix(prefix, ".bin"), with_suffix(prefix, ".idx"));
        let is_file_name =
            prefix.extension().is_some_and(|extension| extension == "bin" || extension == "idx");
        if is_file_name && !index_path.exists() {
            let missing = index_path.display();
            return Err(Error::input(format!(
                "{missing}: no such file; hint: give the prefix, without .bin or .idx"
            )));
        }
        let index = Index::open_by(opener, &index_path)?;
        let file = opener.open(&path).map_err(|e| io_error("open", &path, &e))?;
        let len = file.metadata().map_err(|e| io_error("inspect", &path, &e))?.len();
        let expected = index.tokens() * index.token_type().size_bytes();
        if len != expected {
            return Err(Error::input(format!(
                "{}: has {len} bytes, but {} describes {expected}; hint: truncated, or not of the same writing",
                path.display(),
                index_path.display()
            )));
        }
        Ok(TokenFile { path, file, index })
    }

    /// Opens a token file that another rank has checked.
    ///
    /// # Errors
    /// As [`Index::join`]; the `.bin` file cannot be opened.
    pub(super) fn join(prefix: &Path, facts: IndexFacts, opener: &Opener) -> Result<Self> {
        let (path, index_path) = (with_suffix(prefix, ".bin"), with_suffix(prefix, ".idx"));
        let index = Index::join(&index_path, facts, opener)?;
        let file = opener.open(&path).map_err(|e| io_error("open", &path, &e))?;
        Ok(TokenFile { path, file, index })
    }

    /// The `.bin` file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Reads the tokens from position `start` into `tokens`, by way of `bytes` (resized, contents lost).
    ///
    /// # Errors
    /// A range that leaves the file, an id that is negative or above 2³² − 1, an I/O error.
    pub fn read(&self, start: u64, tokens: &mut [u32], bytes: &mut Vec<u8>) -> Result<()> {
        let token_type = self.index.token_type();
        let end = start.checked_add(tokens.len() as u64);
        if end.is_none_or(|end| end > self.index.tokens()) {
            let (len, total) = (tokens.len(), self.index.tokens());
            return Err(Error::fault(format!(
                "{}: tokens {start}..+{len} asked for, the file has {total}",
                self.path.display()
            )));
        }
        bytes.resize(tokens.len() * token_type.size_bytes() as usize, 0);
        self.file
            .read_exact_at(bytes, start * token_type.size_bytes())
            .map_err(|e| io_error(&format!("read {} bytes at token {start}", bytes.len()), &self.path, &e))?;
        self.decode(token_type, bytes, tokens).map_err(|(offset, id)| {
            let position = start + offset as u64;
            Error::input(format!("{}: token {id} at position {position} is not an id", self.path.display()))
        })
    }

    fn decode(&self, token_type: TokenType, bytes: &[u8], tokens: &mut [u32]) -> Result<(), (usize, i64)> {
        let (two, _) = bytes.as_chunks::<2>();
        let (four, _) = bytes.as_chunks::<4>();
        let (eight, _) = bytes.as_chunks::<8>();
        match token_type {
            TokenType::U8 => tokens.iter_mut().zip(bytes).for_each(|(token, &byte)| *token = u32::from(byte)),
            TokenType::U16 => {
                tokens.iter_mut().zip(two).for_each(|(t, &b)| *t = u16::from_le_bytes(b).into())
            }
            TokenType::I16 => return signed(tokens, two, |b| i16::from_le_bytes(b).into()),
            TokenType::I32 => return signed(tokens, four, |b| i32::from_le_bytes(b).into()),
            TokenType::I64 => return signed(tokens, eight, i64::from_le_bytes),
        }
        Ok(())
    }
}

/// Decodes signed words; the error is the place and value of the first that is no id.
fn signed<const N: usize>(
    tokens: &mut [u32],
    words: &[[u8; N]],
    decode: impl Fn([u8; N]) -> i64,
) -> Result<(), (usize, i64)> {
    for (i, (token, word)) in tokens.iter_mut().zip(words).enumerate() {
        let value = decode(*word);
        *token = u32::try_from(value).map_err(|_| (i, value))?;
    }
    Ok(())
}
