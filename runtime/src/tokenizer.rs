//! Text to token ids and back: a `tokenizer.json` of Hugging Face, read or trained.

mod pieces;
mod stream;
mod train;

use std::path::Path;

use tokenizers::Tokenizer as HfTokenizer;

use crate::data::files::read_all;
use crate::files::{Access, write_atomic};
use crate::{Error, Result};

pub use pieces::DocumentTokenizer;
pub use stream::TextStream;

/// Names under which tokenizers know the token that ends a document; the first one found is it.
const END_OF_TEXT: [&str; 8] = [
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<|im_end|>",
    "<|eot_id|>",
    "<｜end▁of▁sentence｜>",
    "[EOS]",
];

/// A tokenizer.
pub struct Tokenizer {
    inner: HfTokenizer,
    /// The file, byte for byte.
    json: String,
    /// Where it came from, for messages.
    name: String,
    vocab_size: usize,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("name", &self.name).field("vocab_size", &self.vocab_size).finish()
    }
}

impl Tokenizer {
    /// Opens a `tokenizer.json`.
    ///
    /// # Errors
    /// A file that is missing, is not JSON (with line and column), or is JSON but no tokenizer.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let json = String::from_utf8(read_all(path)?).map_err(|e| {
            Error::input(format!("{name}: not UTF-8 at byte {}", e.utf8_error().valid_up_to()))
        })?;
        Self::from_json(name, json)
    }

    fn from_json(name: String, json: String) -> Result<Self> {
        let mut inner = HfTokenizer::from_bytes(&json).map_err(|error| {
            // Parsed again only to tell the two mistakes apart.
            let what = match serde_json::from_str::<serde::de::IgnoredAny>(&json) {
                Err(e) => format!("not JSON: {e}"),
                Ok(_) => format!("JSON, but not a tokenizer: {}", one_line(&error)),
            };
            Error::input(format!(
                "{name}: {what}; hint: tokenizer.path names a tokenizer.json of Hugging Face"
            ))
        })?;
        // Some files ask to cut or to fill texts to a fixed length: not ours.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| Error::input(format!("{name}: {}", one_line(&e))))?;
        let vocab_size = inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        if vocab_size == 0 {
            return Err(Error::input(format!("{name}: the vocabulary is empty")));
        }
        Ok(Tokenizer { inner, json, name, vocab_size })
    }

    /// Writes the tokenizer to `path`, byte for byte as it was read.
    pub fn save(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            Access::umask().create_dir_all(folder)?;
        }
        write_atomic(path, self.json.as_bytes())
    }

    /// The content of the file.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id of the token that ends a document, if the tokenizer has one under a common name.
    pub fn end_of_text(&self) -> Option<u32> {
        END_OF_TEXT.iter().find_map(|name| self.inner.token_to_id(name))
    }

    /// As [`Tokenizer::end_of_text`].
    ///
    /// # Errors
    /// When there is none, with the names looked for.
    pub fn require_end_of_text(&self) -> Result<u32> {
        self.end_of_text().ok_or_else(|| {
            let (name, names) = (&self.name, END_OF_TEXT.join(" "));
            Error::input(format!("{name}: no token that ends a document; looked for {names}"))
        })
    }

    /// The id of a token, by its exact name.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The ids of `text`. Special tokens written in it are recognised, none is added.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        encode(&self.inner, text, false).map_err(|what| self.error(&what))
    }

    /// The ids of a prompt: as [`Tokenizer::encode`], after what the tokenizer puts before every text, such
    /// as a beginning-of-text token.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        encode(&self.inner, text, true).map_err(|what| self.error(&what))
    }

    /// The text of `ids`, special tokens included. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// An id that the tokenizer does not have.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        if let Some(id) = ids.iter().find(|id| self.inner.id_to_token(**id).is_none()) {
            return Err(self.error(&format!("no token has id {id}; ids are below {}", self.vocab_size)));
        }
        self.inner.decode(ids, false).map_err(|e| self.error(&one_line(&e)))
    }

    /// Decodes ids one by one, as a model generates them.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream::new(self)
    }

    /// The same tokenizer, for documents to train on: special tokens written in a document are text.
    pub fn for_documents(&self) -> DocumentTokenizer {
        DocumentTokenizer::new(self)
    }

    fn error(&self, what: &str) -> Error {
        Error::input(format!("{}: {what}", self.name))
    }
}

fn encode(inner: &HfTokenizer, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, String> {
    let encoding = inner.encode_fast(text, add_special_tokens).map_err(|e| one_line(&e))?;
    Ok(encoding.get_ids().to_vec())
}

/// The message of an error of the crate `tokenizers`, which may have several lines.
fn one_line(error: &tokenizers::Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
