//! A micro-batch as the model takes it: tokens, labels, positions, segments of attention.

use std::ops::Range;

use super::sequences::Window;

/// The label of a token without a target.
pub const IGNORE_LABEL: i32 = -100;

/// How sequences become a micro-batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchShape {
    /// Sequences of a micro-batch.
    pub micro_batch: usize,
    /// Whether attention and positions restart at each document.
    pub document_mask: bool,
}

/// `micro_batch` sequences laid end to end; `tokens = micro_batch · seq_len`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MicroBatch {
    /// Ids, `[tokens]`.
    pub tokens: Vec<u32>,
    /// The token that follows, `[tokens]`; [`IGNORE_LABEL`] where there is no target: in padding and, with a
    /// document mask, at the last token of a document, which cannot know what the next one begins with.
    pub labels: Vec<i32>,
    /// Position of each token in its segment, `[tokens]`.
    pub positions: Vec<u32>,
    /// Where segments begin, ascending from 0, then `tokens` up to the end: `[tokens + 1]`. Segments end
    /// with their sequence and, with a document mask, with their document.
    pub cu_seqlens: Vec<u32>,
    /// Labels that are not [`IGNORE_LABEL`].
    pub valid_tokens: u64,
}

impl MicroBatch {
    /// A batch of `tokens` tokens in one segment, all of them token 0 without a target: for dry runs.
    pub fn empty(tokens: usize) -> Self {
        MicroBatch { labels: vec![IGNORE_LABEL; tokens], ..Self::continuation(&vec![0; tokens], 0) }
    }

    /// Tokens of one sequence that stand at `start` and after it, without targets: for generation.
    pub fn continuation(tokens: &[u32], start: u32) -> Self {
        let len = tokens.len();
        let mut cu_seqlens = vec![len as u32; len + 1];
        cu_seqlens[0] = 0;
        MicroBatch {
            tokens: tokens.to_vec(),
            labels: vec![IGNORE_LABEL; len],
            positions: (start..start + len as u32).collect(),
            cu_seqlens,
            valid_tokens: 0,
        }
    }

    /// Sequences of random tokens, each one document with a target for every token. Sequence i depends on `seed` and i
    /// alone (splitmix64: Steele, Lea and Flood, 2014).
    pub fn random(sequences: Range<u64>, seq_len: usize, vocab_size: usize, seed: u64) -> Self {
        let mut batch = MicroBatch::default();
        for sequence in sequences {
            let mut state = seed ^ sequence.wrapping_mul(0xd134_2543_de82_ef95);
            let mut token = || {
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = state;
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                ((z ^ (z >> 31)) % vocab_size as u64) as u32
            };
            let mut window = Window::default();
            window.tokens.extend((0..=seq_len).map(|_| token()));
            batch.push(&window, false);
        }
        batch.close();
        batch
    }

    /// Empties the batch and keeps its memory.
    pub(crate) fn clear(&mut self) {
        self.tokens.clear();
        self.labels.clear();
        self.positions.clear();
        self.cu_seqlens.clear();
        self.valid_tokens = 0;
    }

    /// Appends the sequence in `window`.
    pub(crate) fn push(&mut self, window: &Window, document_mask: bool) {
        let base = self.tokens.len();
        let seq_len = window.tokens.len() - 1;
        self.tokens.extend_from_slice(&window.tokens[..seq_len]);
        self.labels.extend(window.tokens[1..].iter().map(|&token| token as i32));
        let starts: &[usize] = if document_mask { &window.starts } else { &[] };
        for &start in starts {
            self.labels[base + start - 1] = IGNORE_LABEL;
        }
        self.valid_tokens += (seq_len - starts.len()) as u64;
        let mut begin = 0;
        for &end in starts.iter().filter(|&&start| start < seq_len).chain([&seq_len]) {
            self.cu_seqlens.push((base + begin) as u32);
            self.positions.extend(0..(end - begin) as u32);
            begin = end;
        }
    }

    /// Appends a sequence without targets.
    pub(crate) fn push_padding(&mut self, seq_len: usize) {
        let base = self.tokens.len();
        self.tokens.resize(base + seq_len, 0);
        self.labels.resize(base + seq_len, IGNORE_LABEL);
        self.positions.extend(0..seq_len as u32);
        self.cu_seqlens.push(base as u32);
    }

    /// Ends the list of segments.
    pub(crate) fn close(&mut self) {
        let tokens = self.tokens.len();
        self.cu_seqlens.resize(tokens + 1, tokens as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(tokens: &[u32], starts: &[usize]) -> Window {
        let mut window = Window::default();
        window.tokens.extend_from_slice(tokens);
        window.starts.extend_from_slice(starts);
        window
    }

    #[test]
    fn a_document_mask_cuts_segments_positions_and_labels() {
        let mut batch = MicroBatch::default();
        // Documents [.., 11, 0] [20, 21, 0] [30, ..]; the second sequence ends with its document.
        batch.push(&window(&[11, 0, 20, 21, 0, 30, 31], &[2, 5]), true);
        batch.push(&window(&[31, 32, 33, 34, 35, 0, 40], &[6]), true);
        batch.close();
        assert_eq!(batch.tokens, [11, 0, 20, 21, 0, 30, 31, 32, 33, 34, 35, 0]);
        assert_eq!(batch.labels, [0, -100, 21, 0, -100, 31, 32, 33, 34, 35, 0, -100]);
        assert_eq!(batch.positions, [0, 1, 0, 1, 2, 0, 0, 1, 2, 3, 4, 5]);
        assert_eq!(batch.cu_seqlens, [0, 2, 5, 6, 12, 12, 12, 12, 12, 12, 12, 12, 12]);
        assert_eq!(batch.valid_tokens, 9);
    }

    #[test]
    fn without_a_document_mask_each_sequence_is_one_segment() {
        let mut batch = MicroBatch::default();
        batch.push(&window(&[11, 0, 20, 21], &[2]), false);
        batch.push_padding(3);
        batch.close();
        assert_eq!(batch.labels, [0, 20, 21, -100, -100, -100]);
        assert_eq!(batch.positions, [0, 1, 2, 0, 1, 2]);
        assert_eq!(batch.cu_seqlens, [0, 3, 6, 6, 6, 6, 6]);
        assert_eq!(batch.valid_tokens, 3);
    }

    #[test]
    fn random_sequences_are_whole_and_depend_on_their_number_alone() {
        let batch = MicroBatch::random(3..5, 8, 50, 7);
        assert_eq!(batch.cu_seqlens[..3], [0, 8, 16]);
        assert_eq!((batch.valid_tokens, batch.labels[0]), (16, batch.tokens[1] as i32));
        assert!(batch.tokens.iter().all(|&token| token < 50));
        assert_eq!(batch.tokens[8..], MicroBatch::random(4..5, 8, 50, 7).tokens);
        assert_ne!(batch.tokens[8..], batch.tokens[..8]);
    }

    #[test]
    fn documents_of_one_token_are_segments() {
        let mut batch = MicroBatch::default();
        batch.push(&window(&[0, 0, 0], &[1, 2]), true);
        batch.close();
        assert_eq!(batch.labels, [-100, -100]);
        assert_eq!(batch.positions, [0, 0]);
        assert_eq!(batch.cu_seqlens, [0, 1, 2]);
        assert_eq!(batch.valid_tokens, 0);
    }
}
