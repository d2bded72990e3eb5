//! Text that appears token by token.

use super::{Tokenizer, one_line};
use crate::Result;

/// A character has at most four bytes, so four byte tokens; beyond, the bytes held back are not UTF-8.
const MAX_HELD_BACK: usize = 4;

/// Decodes a growing list of ids. The texts given out, one after the other, are the text of all ids without
/// special tokens; characters split between tokens are held back until they are complete.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Ids whose text is out, kept because decoders look at the token before, then those held back.
    ids: Vec<u32>,
    num_out: usize,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        TextStream { tokenizer, ids: Vec::new(), num_out: 0 }
    }

    /// Takes the next id and returns the text that it completes, which may be empty. An id that the
    /// tokenizer lacks, which a model with a padded vocabulary may generate, gives U+FFFD.
    pub fn push(&mut self, id: u32) -> Result<String> {
        if self.tokenizer.inner.id_to_token(id).is_none() {
            let mut text = self.finish()?;
            text.push(char::REPLACEMENT_CHARACTER);
            return Ok(text);
        }
        self.ids.push(id);
        self.take(self.ids.len() - self.num_out < MAX_HELD_BACK)
    }

    /// The text that is still held back, as far as it can be decoded.
    pub fn finish(&mut self) -> Result<String> {
        self.take(false)
    }

    fn take(&mut self, hold_back: bool) -> Result<String> {
        let text = self.decode(&self.ids)?;
        if hold_back && text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        let out = self.decode(&self.ids[..self.num_out])?.len();
        // Where the text out ended in broken bytes, the new text may be shorter or cut elsewhere.
        let new = text.get(out..).unwrap_or_default().to_owned();
        self.ids.drain(..self.num_out);
        self.num_out = self.ids.len();
        Ok(new)
    }

    fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.inner.decode(ids, true).map_err(|e| self.tokenizer.error(&one_line(&e)))
    }
}
