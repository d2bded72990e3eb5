//! What token files there are and what their indices say: found and checked by one rank, and told to the others, who
//! then open files without listing folders, asking for sizes, or reading a whole index.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::index::IndexFacts;
use crate::opener::Opener;
use crate::{Error, Result};

/// Token files by the path or pattern that names them in the run file, in their order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Catalogue {
    files: BTreeMap<String, Vec<Entry>>,
    /// How this rank opens them.
    #[serde(skip)]
    pub(super) opener: Opener,
}

/// A token file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Its path without `.bin` and `.idx`.
    pub(super) prefix: PathBuf,
    pub(super) facts: IndexFacts,
}

impl Catalogue {
    /// Nothing is known yet; files are opened by `opener`.
    pub fn new(opener: Opener) -> Self {
        Catalogue { files: BTreeMap::new(), opener }
    }

    /// Whether nothing is known yet.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    pub(super) fn get(&self, path: &str) -> Option<&[Entry]> {
        self.files.get(path).map(Vec::as_slice)
    }

    pub(super) fn insert(&mut self, path: &str, entries: Vec<Entry>) {
        self.files.insert(path.to_owned(), entries);
    }

    /// For another rank.
    ///
    /// # Errors
    /// A path that is no text.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| Error::fault(format!("catalogue of token files: {error}")))
    }

    /// From another rank; files are opened by `opener`.
    ///
    /// # Errors
    /// Bytes that [`Catalogue::to_bytes`] has not written.
    pub fn from_bytes(bytes: &[u8], opener: Opener) -> Result<Self> {
        let told: Catalogue = serde_json::from_slice(bytes)
            .map_err(|error| Error::fault(format!("catalogue of token files from rank 0: {error}")))?;
        Ok(Catalogue { opener, ..told })
    }
}
