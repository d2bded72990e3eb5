//! The entropy of single tokens: what a model that ignores all context can reach at best.

use super::dataset::Dataset;
use super::sequences::{Span, check_vocabulary};
use crate::Result;

/// Tokens read at once.
const CHUNK: u64 = 1 << 18;

/// −Σ p ln p in nats per token, where p mixes the token frequencies of the sources by their shares.
/// Reads all training tokens once.
pub fn unigram_entropy(dataset: &Dataset) -> Result<f64> {
    let vocab_size = dataset.config().vocab_size;
    let mut mixture = vec![0.0; vocab_size];
    let mut counts = vec![0u64; vocab_size];
    for source in 0..dataset.num_sources() {
        counts.fill(0);
        for span in dataset.sequences(source).spans() {
            count(span, vocab_size, &mut counts)?;
        }
        let scale = dataset.share(source) / dataset.sequences(source).tokens() as f64;
        for (p, &count) in mixture.iter_mut().zip(&counts) {
            *p += scale * count as f64;
        }
    }
    Ok(mixture.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum())
}

fn count(span: &Span, vocab_size: usize, counts: &mut [u64]) -> Result<()> {
    let (mut tokens, mut bytes) = (Vec::new(), Vec::new());
    let end = span.start + span.tokens;
    let mut start = span.start;
    while start < end {
        tokens.resize((end - start).min(CHUNK) as usize, 0);
        span.file.read(start, &mut tokens, &mut bytes)?;
        check_vocabulary(span.file.path(), start, &tokens, vocab_size)?;
        for &token in &tokens {
            counts[token as usize] += 1;
        }
        start += tokens.len() as u64;
    }
    Ok(())
}
