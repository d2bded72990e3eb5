//! One sequence that grows token by token: what generation sees of a device.

use tisserand_kernels::Device;

use crate::error::Result;
use crate::model::attention::KvCache;
use crate::network::Network;

/// Logits of the last token after `tokens` follow those already in the cache, one sequence at a time.
pub trait Decoder: Send {
    /// Takes new tokens; the logits of the last `[vocab_size]`.
    fn extend(&mut self, tokens: &[u32]) -> Result<Vec<f32>>;

    /// Tokens taken so far.
    fn len(&self) -> usize;

    /// Whether no token was taken yet.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A network with key-value caches.
pub struct CachedNetwork<D: Device> {
    network: Network<D>,
    caches: Vec<KvCache<D>>,
}

impl<D: Device> CachedNetwork<D> {
    /// Caches for `capacity` tokens.
    pub fn new(network: Network<D>, capacity: usize) -> Result<Self> {
        let caches = network.caches(capacity)?;
        Ok(CachedNetwork { network, caches })
    }
}

impl<D: Device> Decoder for CachedNetwork<D> {
    fn extend(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let device = self.network.ctx.device.clone();
        device.enter(|| self.network.extend(&mut self.caches, tokens))
    }

    fn len(&self) -> usize {
        self.caches.first().map_or(0, KvCache::len)
    }
}
