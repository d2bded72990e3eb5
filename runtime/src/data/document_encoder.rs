//! Encodes documents on several threads and gives the tokens back in the order of the text.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::documents::Document;
use crate::Result;
use crate::tokenizer::DocumentTokenizer;

/// Text handed to a thread at once: enough that channels cost nothing, little enough to balance the load.
const BATCH_BYTES: usize = 64 << 10;
/// Batches waiting for each thread, and from each.
const QUEUED: usize = 4;

/// Part of a document; a whole one where the tokenizer does not allow cutting.
struct Piece {
    text: String,
    ends_document: bool,
    file_bytes: u64,
}

/// A piece after encoding.
pub(crate) struct Encoded {
    pub(crate) tokens: Vec<u32>,
    pub(crate) text_bytes: u64,
    pub(crate) file_bytes: u64,
    pub(crate) ends_document: bool,
}

/// Encodes `documents` on `threads` threads and passes the pieces to `sink` in order. Stops at the first
/// error, of reading, encoding or `sink`. Empty documents are left out.
pub(crate) fn encode_in_order(
    tokenizer: &DocumentTokenizer,
    documents: impl Iterator<Item = Result<Document>> + Send,
    threads: usize,
    mut sink: impl FnMut(Encoded) -> Result<()>,
) -> Result<()> {
    std::thread::scope(|scope| {
        // Batch i goes through thread i mod threads: collecting in turn restores the order without a buffer
        // of results that came too early.
        let (mut texts, mut results) = (Vec::new(), Vec::new());
        for _ in 0..threads.max(1) {
            let (send_text, receive_text) = sync_channel(QUEUED);
            let (send_result, receive_result) = sync_channel(QUEUED);
            scope.spawn(move || encode_batches(tokenizer, &receive_text, &send_result));
            texts.push(send_text);
            results.push(receive_result);
        }
        scope.spawn(move || {
            for (batch, text) in batches(tokenizer, documents).zip(texts.iter().cycle()) {
                if text.send(batch).is_err() {
                    return;
                }
            }
        });
        for result in results.iter().cycle() {
            // A thread that has ended where its turn comes had no more to do, and so have all after it.
            let Ok(encoded) = result.recv() else { break };
            encoded?.into_iter().try_for_each(&mut sink)?;
        }
        Ok(())
    })
}

fn encode_batches(
    tokenizer: &DocumentTokenizer,
    texts: &Receiver<Result<Vec<Piece>>>,
    results: &SyncSender<Result<Vec<Encoded>>>,
) {
    for batch in texts {
        let encode = |piece: Piece| {
            Ok(Encoded {
                tokens: tokenizer.encode(&piece.text)?,
                text_bytes: piece.text.len() as u64,
                file_bytes: piece.file_bytes,
                ends_document: piece.ends_document,
            })
        };
        let encoded = batch.and_then(|pieces| pieces.into_iter().map(encode).collect());
        if results.send(encoded).is_err() {
            return;
        }
    }
}

/// The pieces of all documents, in batches of about `BATCH_BYTES`.
fn batches(
    tokenizer: &DocumentTokenizer,
    documents: impl Iterator<Item = Result<Document>>,
) -> impl Iterator<Item = Result<Vec<Piece>>> {
    let mut pieces = documents.flat_map(|document| match document {
        Ok(document) => cut(tokenizer, document),
        Err(error) => vec![Err(error)],
    });
    std::iter::from_fn(move || {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES {
            match pieces.next() {
                Some(Ok(piece)) => {
                    bytes += piece.text.len();
                    batch.push(piece);
                }
                Some(Err(error)) => return Some(Err(error)),
                None => break,
            }
        }
        (!batch.is_empty()).then_some(Ok(batch))
    })
}

fn cut(tokenizer: &DocumentTokenizer, document: Document) -> Vec<Result<Piece>> {
    let texts: Vec<String> = tokenizer.pieces(&document.text).map(str::to_owned).collect();
    let last = texts.len().saturating_sub(1);
    let piece = |(i, text)| {
        let ends_document = i == last;
        let file_bytes = if ends_document { document.file_bytes } else { 0 };
        Ok(Piece { text, ends_document, file_bytes })
    };
    texts.into_iter().enumerate().map(piece).collect()
}
