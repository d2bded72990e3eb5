//! Blocks on their way from one rank to another. A send waits for nobody on its own thread, so ranks may all
//! send first and receive then.

use std::collections::{HashMap, VecDeque};

use tisserand_kernels::{Block, Device};

use crate::communicator::CommError;
use crate::pending::Completion;

/// A block that its receiver copies and gives back.
pub(super) struct Letter<D: Device> {
    pub(super) block: Block<D>,
    /// Behind it the block may be read.
    pub(super) ready: D::Event,
    pub(super) completion: Completion<D>,
}

/// Letters by (sender, receiver), oldest first.
pub(super) struct Mailbox<D: Device> {
    letters: HashMap<(usize, usize), VecDeque<Letter<D>>>,
}

impl<D: Device> Default for Mailbox<D> {
    fn default() -> Self {
        Mailbox { letters: HashMap::new() }
    }
}

impl<D: Device> Mailbox<D> {
    pub(super) fn put(&mut self, from: usize, to: usize, letter: Letter<D>) {
        self.letters.entry((from, to)).or_default().push_back(letter);
    }

    pub(super) fn take(&mut self, from: usize, to: usize) -> Option<Letter<D>> {
        self.letters.get_mut(&(from, to))?.pop_front()
    }

    /// Nobody will take these letters any more.
    pub(super) fn refuse_all(&mut self, error: &CommError) {
        for letter in self.letters.drain().flat_map(|(_, letters)| letters) {
            letter.completion.fail(error.clone());
        }
    }
}
