//! Writes a token file: both files aside, synced, then renamed, so that a prefix is complete or absent.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::files::{remove_quietly, sync_parent, with_suffix};
use super::index::{MAGIC, TokenType, VERSION};
use crate::files::{Access, io_error};
use crate::{Error, Result};

/// A token file being written; one sequence per document. Dropped before `finish`, it leaves nothing.
#[derive(Debug)]
pub struct TokenFileWriter {
    path: PathBuf,
    index_path: PathBuf,
    token_type: TokenType,
    bin: BufWriter<File>,
    lengths: Vec<i32>,
    /// Tokens since the last end of document.
    open_tokens: u64,
    tokens: u64,
}

impl TokenFileWriter {
    /// Begins `PREFIX.bin` for ids below `vocab_size`: u16 below 65,500 entries, i32 above.
    /// Missing folders are made.
    pub fn create(prefix: &Path, vocab_size: usize) -> Result<Self> {
        let (path, index_path) = (with_suffix(prefix, ".bin"), with_suffix(prefix, ".idx"));
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            Access::umask().create_dir_all(folder)?;
        }
        let aside = aside(&path);
        let file = File::create(&aside).map_err(|e| io_error("create", &aside, &e))?;
        Ok(TokenFileWriter {
            path,
            index_path,
            token_type: TokenType::for_vocab(vocab_size),
            bin: BufWriter::with_capacity(1 << 20, file),
            lengths: Vec::new(),
            open_tokens: 0,
            tokens: 0,
        })
    }

    /// Appends tokens to the document at hand.
    ///
    /// # Errors
    /// An id that the type chosen by `create` cannot hold; an I/O error.
    pub fn push_tokens(&mut self, tokens: &[u32]) -> Result<()> {
        for &token in tokens {
            let written = match (self.token_type, u16::try_from(token), i32::try_from(token)) {
                (TokenType::U16, Ok(id), _) => self.bin.write_all(&id.to_le_bytes()),
                (TokenType::I32, _, Ok(id)) => self.bin.write_all(&id.to_le_bytes()),
                (token_type, ..) => {
                    let path = self.path.display();
                    return Err(Error::input(format!("{path}: token {token} does not fit {token_type:?}")));
                }
            };
            written.map_err(|e| io_error("write", &self.path, &e))?;
        }
        self.open_tokens += tokens.len() as u64;
        self.tokens += tokens.len() as u64;
        Ok(())
    }

    /// Ends the document at hand.
    ///
    /// # Errors
    /// A document of 2³¹ tokens or more: its length does not fit the index.
    pub fn end_document(&mut self) -> Result<()> {
        let length = i32::try_from(self.open_tokens).map_err(|_| {
            let (path, document, tokens) = (self.path.display(), self.lengths.len(), self.open_tokens);
            Error::input(format!("{path}: document {document} has {tokens} tokens, more than 2^31 - 1"))
        })?;
        self.lengths.push(length);
        self.open_tokens = 0;
        Ok(())
    }

    /// Appends a whole document.
    pub fn push_document(&mut self, tokens: &[u32]) -> Result<()> {
        self.push_tokens(tokens)?;
        self.end_document()
    }

    /// Tokens written.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Documents ended.
    pub fn documents(&self) -> u64 {
        self.lengths.len() as u64
    }

    /// Makes both files durable under their names. Tokens after the last end of document become one.
    pub fn finish(mut self) -> Result<()> {
        if self.open_tokens > 0 {
            self.end_document()?;
        }
        let (bin_aside, index_aside) = (aside(&self.path), aside(&self.index_path));
        let flushed = self.bin.flush().and_then(|()| self.bin.get_ref().sync_all());
        flushed.map_err(|e| io_error("write", &bin_aside, &e))?;
        self.write_index(&index_aside).map_err(|e| io_error("write", &index_aside, &e))?;
        // The old index goes first: at no moment does an index describe another writing's tokens.
        remove_quietly(&self.index_path);
        for (from, to) in [(&bin_aside, &self.path), (&index_aside, &self.index_path)] {
            std::fs::rename(from, to).map_err(|e| io_error("rename", from, &e))?;
        }
        sync_parent(&self.path)
    }

    fn write_index(&self, path: &Path) -> std::io::Result<()> {
        let mut out = BufWriter::new(File::create(path)?);
        out.write_all(MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&[self.token_type.code()])?;
        out.write_all(&(self.lengths.len() as u64).to_le_bytes())?;
        out.write_all(&(self.lengths.len() as u64 + 1).to_le_bytes())?;
        for length in &self.lengths {
            out.write_all(&length.to_le_bytes())?;
        }
        let mut pointer = 0i64;
        for &length in &self.lengths {
            out.write_all(&pointer.to_le_bytes())?;
            pointer += i64::from(length) * self.token_type.size_bytes() as i64;
        }
        for sequence in 0..=self.lengths.len() as i64 {
            out.write_all(&sequence.to_le_bytes())?;
        }
        out.flush()?;
        out.get_ref().sync_all()
    }
}

impl Drop for TokenFileWriter {
    fn drop(&mut self) {
        // After `finish` both have been renamed away and this finds nothing.
        remove_quietly(&aside(&self.path));
        remove_quietly(&aside(&self.index_path));
    }
}

fn aside(path: &Path) -> PathBuf {
    with_suffix(path, ".tmp")
}
