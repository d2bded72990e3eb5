//! The tokenizer as documents need it: special tokens are text, and long texts are encoded in pieces.

use tokenizers::{PreTokenizerWrapper, Tokenizer as HfTokenizer};

use super::{Tokenizer, encode};
use crate::{Error, Result};

/// Pieces have at least this many bytes: few enough for the caches of a core.
const PIECE_BYTES: usize = 16 << 10;

/// Encodes documents. A document that contains the name of a special token keeps it as text: a source file
/// that mentions `<|endoftext|>` does not end there.
pub struct DocumentTokenizer {
    inner: HfTokenizer,
    name: String,
    cuts: bool,
}

impl DocumentTokenizer {
    pub(super) fn new(tokenizer: &Tokenizer) -> Self {
        let mut inner = tokenizer.inner.clone();
        inner.set_encode_special_tokens(true);
        let cuts = may_cut(&inner);
        DocumentTokenizer { inner, name: tokenizer.name.clone(), cuts }
    }

    /// The ids of a document, or of one of its pieces.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        encode(&self.inner, text, false).map_err(|what| Error::input(format!("{}: {what}", self.name)))
    }

    /// Cuts a document such that the ids of the pieces, one after the other, are the ids of the whole.
    /// Tokenizers for which this is not certain get the whole; an empty document has no piece.
    pub fn pieces<'a>(&self, text: &'a str) -> impl Iterator<Item = &'a str> + use<'a> {
        cut(text, if self.cuts { PIECE_BYTES } else { usize::MAX })
    }
}

/// Whether no token can reach over a line break between two characters that are not white space.
///
/// True for the byte-level split of GPT-2, whose expression takes a line break only together with other
/// white space, unless something before it changes the text or an added token takes white space with it.
fn may_cut(inner: &HfTokenizer) -> bool {
    let split = inner.get_pre_tokenizer();
    let byte_level =
        matches!(split, Some(PreTokenizerWrapper::ByteLevel(b)) if b.use_regex && !b.add_prefix_space);
    let added = inner.get_added_tokens_decoder();
    let plain = added.values().all(|t| !t.lstrip && !t.rstrip && !t.content.contains('\n'));
    byte_level && plain && inner.get_normalizer().is_none()
}

/// Cuts after line breaks between two characters that are not white space, into pieces of at least
/// `min_bytes` but for the last.
pub(super) fn cut(text: &str, min_bytes: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (piece, after) = rest.split_at(first_cut(rest, min_bytes));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

fn first_cut(text: &str, min_bytes: usize) -> usize {
    let bytes = text.as_bytes();
    let mut from = min_bytes.saturating_sub(1);
    while let Some(found) = bytes.get(from..).and_then(|tail| tail.iter().position(|&b| b == b'\n')) {
        let at = from + found;
        let solid = |c: Option<char>| c.is_some_and(|c| !c.is_whitespace());
        // A line break is one byte, so both sides are texts.
        if solid(text[..at].chars().next_back()) && solid(text[at + 1..].chars().next()) {
            return at + 1;
        }
        from = at + 1;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_text() {
        let text = "ab\ncd\n\nef \ngh\n ij\né\nk";
        for min_bytes in [1, 2, 3, 7, 100] {
            let pieces: Vec<&str> = cut(text, min_bytes).collect();
            assert_eq!(pieces.concat(), text);
        }
        assert_eq!(cut(text, 1).collect::<Vec<_>>(), ["ab\n", "cd\n\nef \ngh\n ij\n", "é\n", "k"]);
        assert_eq!(cut("", 1).count(), 0);
    }
}
