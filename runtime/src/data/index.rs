//! The index of a token file (`.idx`), mapped and validated.
//!
//! Layout, little endian, without padding (NVIDIA/Megatron-LM, `megatron/core/datasets/indexed_dataset.py`):
//!
//! | bytes | field |
//! |---|---|
//! | 9 | magic `MMIDIDX\0\0` |
//! | u64 | version, 1 |
//! | u8 | dtype of the tokens: 1 u8, 2 i8, 3 i16, 4 i32, 5 i64, 6 f64, 7 f32, 8 u16 |
//! | u64, u64 | number of sequences S, number of document indices D (documents + 1) |
//! | i32 × S | tokens of each sequence |
//! | i64 × S | byte offset of each sequence in the `.bin` file |
//! | i64 × D | first sequence of each document, then S |

use std::path::{Path, PathBuf};

use memmap2::{Mmap, MmapOptions};
use serde::{Deserialize, Serialize};

use crate::files::io_error;
use crate::opener::Opener;
use crate::{Error, Result};

pub(crate) const MAGIC: &[u8; 9] = b"MMIDIDX\0\0";
pub(crate) const VERSION: u64 = 1;
const HEADER_BYTES: usize = 34;

/// How tokens are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TokenType {
    /// Unsigned, 8 bits.
    U8,
    /// Signed, 16 bits.
    I16,
    /// Unsigned, 16 bits: what a vocabulary below 65,500 is written in.
    U16,
    /// Signed, 32 bits: what larger vocabularies are written in.
    I32,
    /// Signed, 64 bits.
    I64,
}

impl TokenType {
    /// The type that Megatron-LM would choose for this vocabulary.
    pub fn for_vocab(vocab_size: usize) -> Self {
        if vocab_size < 65_500 { TokenType::U16 } else { TokenType::I32 }
    }

    /// Bytes of one token.
    pub fn size_bytes(self) -> u64 {
        match self {
            TokenType::U8 => 1,
            TokenType::I16 | TokenType::U16 => 2,
            TokenType::I32 => 4,
            TokenType::I64 => 8,
        }
    }

    pub(crate) fn code(self) -> u8 {
        match self {
            TokenType::U8 => 1,
            TokenType::I16 => 3,
            TokenType::I32 => 4,
            TokenType::I64 => 5,
            TokenType::U16 => 8,
        }
    }

    fn from_code(code: u8) -> Result<Self, String> {
        Ok(match code {
            1 => TokenType::U8,
            3 => TokenType::I16,
            4 => TokenType::I32,
            5 => TokenType::I64,
            8 => TokenType::U16,
            2 | 6 | 7 => {
                return Err(format!("dtype code {code} (i8 or floating point) cannot hold token ids"));
            }
            _ => return Err(format!("dtype code {code} is unknown; 1, 3, 4, 5 and 8 are read")),
        })
    }
}

/// A validated index. Holds no token.
#[derive(Debug)]
pub struct Index {
    map: Mmap,
    facts: IndexFacts,
}

/// What a whole index says of itself, once it is validated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct IndexFacts {
    token_type: TokenType,
    sequences: usize,
    documents: usize,
    tokens: u64,
    /// Of the file.
    bytes: u64,
}

impl Index {
    /// Maps and validates an index: every field, and the whole of its three tables.
    ///
    /// # Errors
    /// One line that names the file and the field that is missing, unknown, or contradicts another.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_by(&Opener::default(), path)
    }

    pub(super) fn open_by(opener: &Opener, path: &Path) -> Result<Self> {
        let file = opener.open(path).map_err(|e| io_error("open", path, &e))?;
        let metadata = file.metadata().map_err(|e| io_error("inspect", path, &e))?;
        if !metadata.is_file() {
            return Err(Error::input(format!("{}: is not a regular file", path.display())));
        }
        if metadata.len() < HEADER_BYTES as u64 {
            let len = metadata.len();
            let message = format!("truncated: {len} bytes, the header alone has {HEADER_BYTES}");
            return Err(invalid(path, message));
        }
        // SAFETY: the mapping is read-only, and its bytes are only ever copied out of a bounds-checked
        // slice as integers. Index files are replaced by renaming, never written in place, so the bytes do
        // not change under the slice; a file truncated in place by someone else ends the process with a
        // signal, without touching other memory.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| io_error("map", path, &e))?;
        Self::parse(map).map_err(|message| invalid(path, message))
    }

    /// Maps an index that another rank has validated: one open, and its first page.
    ///
    /// # Errors
    /// It cannot be opened, or is another file than that rank saw.
    pub(super) fn join(path: &Path, facts: IndexFacts, opener: &Opener) -> Result<Self> {
        let file = opener.open(path).map_err(|e| io_error("open", path, &e))?;
        let len = usize::try_from(facts.bytes)
            .map_err(|_| invalid(path, format!("{} bytes do not fit into memory", facts.bytes)))?;
        // SAFETY: as in `open`; a file that is shorter than it was at the other rank is one that was truncated in place.
        let map = unsafe { MmapOptions::new().len(len).map(&file) }.map_err(|e| io_error("map", path, &e))?;
        let same = len >= HEADER_BYTES
            && &map[..9] == MAGIC
            && map[17] == facts.token_type.code()
            && u64_at(&map, 18) == facts.sequences as u64
            && u64_at(&map, 26) == facts.documents as u64 + 1;
        if !same {
            return Err(invalid(
                path,
                "is not the file that rank 0 reads; hint: do all hosts share it?".into(),
            ));
        }
        Ok(Index { map, facts })
    }

    pub(super) fn facts(&self) -> IndexFacts {
        self.facts
    }

    fn parse(map: Mmap) -> Result<Self, String> {
        if &map[..9] != MAGIC {
            return Err("magic is not \"MMIDIDX\"; hint: this is not the index of a token file".into());
        }
        let version = u64_at(&map, 9);
        if version != VERSION {
            return Err(format!("version is {version}; only {VERSION} is known"));
        }
        let token_type = TokenType::from_code(map[17])?;
        let (sequences, entries) = (u64_at(&map, 18), u64_at(&map, 26));
        let expected = [(sequences, 12), (entries, 8)]
            .iter()
            .try_fold(HEADER_BYTES as u64, |sum, (count, bytes)| sum.checked_add(count.checked_mul(*bytes)?));
        let len = map.len() as u64;
        if expected != Some(len) {
            let hint = match expected.and_then(|bytes| bytes.checked_add(sequences)) {
                Some(with_modes) if with_modes == len => "; hint: multimodal files are not supported",
                _ => "; hint: truncated or damaged",
            };
            return Err(format!(
                "sequence count {sequences} and document count {entries} do not fit its {len} bytes{hint}"
            ));
        }
        if entries == 0 {
            return Err("document count is 0; it counts the boundaries and is at least 1".into());
        }
        let (sequences, documents) = (sequences as usize, entries as usize - 1);
        let facts = IndexFacts { token_type, sequences, documents, tokens: 0, bytes: len };
        let mut index = Index { map, facts };
        index.facts.tokens = index.check_sequences()?;
        index.check_documents()?;
        Ok(index)
    }

    /// Checks lengths and pointers; returns the number of tokens.
    fn check_sequences(&self) -> Result<u64, String> {
        let (lengths, pointers) = (self.lengths(), self.pointers());
        let size = self.facts.token_type.size_bytes();
        let mut next = 0u64;
        for (i, (length, pointer)) in lengths.chunks_exact(4).zip(pointers.chunks_exact(8)).enumerate() {
            let (length, pointer) = (i32_at(length), i64_at(pointer, 0));
            if length < 0 {
                return Err(format!("length of sequence {i} is {length}"));
            }
            if u64::try_from(pointer) != Ok(next) {
                return Err(format!("pointer of sequence {i} is {pointer}, expected {next}"));
            }
            // 2^31 tokens of 8 bytes in each of 2^60 sequences do not fit a u64; files do.
            next = next
                .checked_add(length as u64 * size)
                .ok_or_else(|| format!("length of sequence {i} leaves the address range"))?;
        }
        Ok(next / size)
    }

    fn check_documents(&self) -> Result<(), String> {
        let mut previous = 0;
        for (i, value) in self.document_indices().chunks_exact(8).enumerate() {
            let value = i64_at(value, 0);
            if (i == 0 && value != 0) || value < previous || value as u64 > self.facts.sequences as u64 {
                let sequences = self.facts.sequences;
                return Err(format!(
                    "document index {i} is {value}, after {previous}, of {sequences} sequences"
                ));
            }
            previous = value;
        }
        if previous as u64 != self.facts.sequences as u64 {
            let sequences = self.facts.sequences;
            return Err(format!(
                "last document index is {previous}, expected the sequence count {sequences}"
            ));
        }
        Ok(())
    }

    /// How tokens are stored.
    pub fn token_type(&self) -> TokenType {
        self.facts.token_type
    }

    /// Number of tokens of the file.
    pub fn tokens(&self) -> u64 {
        self.facts.tokens
    }

    /// Number of documents.
    pub fn documents(&self) -> usize {
        self.facts.documents
    }

    /// Position of the first token of document `document`; for `documents()`, the number of tokens.
    ///
    /// # Panics
    /// If `document` is larger than `documents()`.
    pub fn document_start(&self, document: usize) -> u64 {
        let sequence = i64_at(self.document_indices(), document) as usize;
        if sequence >= self.facts.sequences {
            return self.facts.tokens;
        }
        i64_at(self.pointers(), sequence) as u64 / self.facts.token_type.size_bytes()
    }

    /// The first document, of `0..=documents()`, that starts at or after token `position`.
    pub fn first_document_from(&self, position: u64) -> usize {
        let (mut low, mut high) = (0, self.facts.documents);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.document_start(middle) < position {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn lengths(&self) -> &[u8] {
        &self.map[HEADER_BYTES..HEADER_BYTES + 4 * self.facts.sequences]
    }

    fn pointers(&self) -> &[u8] {
        let start = HEADER_BYTES + 4 * self.facts.sequences;
        &self.map[start..start + 8 * self.facts.sequences]
    }

    fn document_indices(&self) -> &[u8] {
        &self.map[HEADER_BYTES + 12 * self.facts.sequences..]
    }
}

fn invalid(path: &Path, message: String) -> Error {
    Error::input(format!("{}: {message}", PathBuf::from(path).display()))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(word)
}

/// The `i`-th word of a table: tables are not aligned in the file.
fn i64_at(table: &[u8], i: usize) -> i64 {
    u64_at(table, 8 * i) as i64
}

fn i32_at(bytes: &[u8]) -> i32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[..4]);
    i32::from_le_bytes(word)
}
