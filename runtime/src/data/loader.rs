//! The steps of one rank, read ahead of time by a thread.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::batch::{BatchShape, MicroBatch};
use super::dataset::Dataset;
use super::sequences::Window;
use super::step_order::StepOrder;
use crate::{Error, Result};

/// What one rank reads.
#[derive(Clone, PartialEq, Debug)]
pub struct LoaderConfig {
    /// Samples of each step.
    pub order: StepOrder,
    /// How sequences become micro-batches.
    pub shape: BatchShape,
    /// This rank's micro-batches in the order of its micro-steps: leaf g of a step = its sequences
    /// `[g · micro_batch, (g + 1) · micro_batch)`.
    pub leaves: Vec<usize>,
    /// Steps read ahead.
    pub prefetch_batches: usize,
    /// The first step to read: where a resumed run goes on.
    pub first_step: u64,
}

/// One rank's part of a step.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StepBatch {
    /// The step, from 0.
    pub step: u64,
    /// In the order of the micro-steps.
    pub micro_batches: Vec<MicroBatch>,
    /// Labels with a target, on this rank.
    pub valid_tokens: u64,
}

/// Reads any step of one rank; no thread, no state but buffers.
#[derive(Debug)]
pub struct StepReader {
    dataset: Arc<Dataset>,
    order: StepOrder,
    shape: BatchShape,
    leaves: Vec<usize>,
    window: Window,
}

impl StepReader {
    /// A reader of the steps that `config` describes.
    ///
    /// # Errors
    /// A micro-batch that does not divide the global batch, a leaf that is not in it.
    pub fn new(dataset: Arc<Dataset>, config: &LoaderConfig) -> Result<Self> {
        let (global_batch, micro_batch) = (config.order.global_batch(), config.shape.micro_batch);
        if micro_batch == 0 || !global_batch.is_multiple_of(micro_batch) {
            return Err(Error::input(format!(
                "training.micro_batch = {micro_batch} does not divide training.global_batch = {global_batch}"
            )));
        }
        // Offsets of segments are u32 on the device.
        let seq_len = dataset.config().seq_len;
        if micro_batch.checked_mul(seq_len).is_none_or(|tokens| tokens > i32::MAX as usize) {
            return Err(Error::input(format!(
                "training.micro_batch = {micro_batch} times training.seq_len = {seq_len} is not below 2^31 tokens"
            )));
        }
        let num_leaves = global_batch / micro_batch;
        if let Some(leaf) = config.leaves.iter().find(|leaf| **leaf >= num_leaves) {
            return Err(Error::fault(format!("micro-batch {leaf} of a step that has {num_leaves}")));
        }
        Ok(StepReader {
            dataset,
            order: config.order.clone(),
            shape: config.shape,
            leaves: config.leaves.clone(),
            window: Window::default(),
        })
    }

    /// Reads `step` into `batch`, whose memory is reused.
    pub fn read(&mut self, step: u64, batch: &mut StepBatch) -> Result<()> {
        let samples = self.order.samples(step);
        let BatchShape { micro_batch, document_mask } = self.shape;
        batch.step = step;
        batch.micro_batches.resize_with(self.leaves.len(), MicroBatch::default);
        for (leaf, out) in self.leaves.iter().zip(&mut batch.micro_batches) {
            out.clear();
            let first = samples.start + (leaf * micro_batch) as u64;
            for index in first..first + micro_batch as u64 {
                self.dataset.read(self.dataset.sample(index), &mut self.window)?;
                out.push(&self.window, document_mask);
            }
            out.close();
        }
        batch.valid_tokens = batch.micro_batches.iter().map(|micro_batch| micro_batch.valid_tokens).sum();
        Ok(())
    }
}

/// The steps of one rank in order, read ahead. Dropping it ends its thread.
pub struct Loader {
    /// `None` only while dropping.
    ready: Option<Receiver<Result<StepBatch>>>,
    used: SyncSender<StepBatch>,
    thread: Option<JoinHandle<()>>,
}

impl Loader {
    /// Starts reading at `config.first_step`.
    ///
    /// # Errors
    /// As [`StepReader::new`]; a thread that cannot be started. Errors of reading come from [`Loader::next`].
    pub fn new(dataset: Arc<Dataset>, config: LoaderConfig) -> Result<Self> {
        let reader = StepReader::new(dataset, &config)?;
        let (send, ready) = sync_channel(config.prefetch_batches);
        // Batches in flight: those ready, the one being read, the one in use.
        let (used, free) = sync_channel(config.prefetch_batches + 2);
        let thread = std::thread::Builder::new()
            .name("data".into())
            .spawn(move || read_ahead(reader, config.first_step, &send, &free))
            .map_err(|e| Error::fault(format!("cannot start the data thread: {e}")))?;
        Ok(Loader { ready: Some(ready), used, thread: Some(thread) })
    }

    /// The next step. Waits when it has not been read yet.
    ///
    /// # Errors
    /// What reading it met; the loader then gives no more steps.
    #[expect(clippy::should_implement_trait, reason = "a run has no last step to end an iterator with")]
    pub fn next(&mut self) -> Result<StepBatch> {
        let received = self.ready.as_ref().and_then(|ready| ready.recv().ok());
        received.unwrap_or_else(|| Err(Error::fault("the data thread has ended after an earlier error")))
    }

    /// Gives back a batch, so that its memory is used again: with it, reading allocates nothing that grows
    /// with the batch.
    pub fn recycle(&self, batch: StepBatch) {
        // A full list means that the caller returns more than it got; the extra batch is freed.
        let _ = self.used.try_send(batch);
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // The thread's next send fails and ends it.
        self.ready = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read_ahead(
    mut reader: StepReader,
    first_step: u64,
    ready: &SyncSender<Result<StepBatch>>,
    free: &Receiver<StepBatch>,
) {
    for step in first_step.. {
        let mut batch = free.try_recv().unwrap_or_default();
        let result = reader.read(step, &mut batch).map(|()| batch);
        let last = result.is_err();
        if ready.send(result).is_err() || last {
            return;
        }
    }
}
