//! The ranks that write a checkpoint together: each its own elements, the lead everything else.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tisserand_collectives::{Alone, Channel, ControlPlane};

use crate::{Error, Result};

/// This rank among those that write. They agree on a channel of their own, since training goes on meanwhile.
#[derive(Clone)]
pub struct Crew {
    control: Arc<dyn ControlPlane>,
}

impl std::fmt::Debug for Crew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Crew(rank {} of {})", self.control.rank(), self.control.world_size())
    }
}

impl Default for Crew {
    fn default() -> Self {
        Crew { control: Arc::new(Alone::default()) }
    }
}

impl Crew {
    /// All ranks of a run.
    pub fn new(control: Arc<dyn ControlPlane>) -> Self {
        Crew { control }
    }

    /// Whether this rank creates, completes and removes folders.
    pub fn is_lead(&self) -> bool {
        self.control.rank() == 0
    }

    /// One phase: brings what every rank has done to the lead, which decides. Its decision is every rank's
    /// result. If any rank has failed, so has the phase, and `decide` is told nothing else.
    ///
    /// # Errors
    /// What a rank or the lead met; ranks but the lead see it as a fault of that rank.
    pub(super) fn phase<T: Serialize + DeserializeOwned, R: Serialize + DeserializeOwned>(
        &self,
        own: Result<T>,
        decide: impl FnOnce(Result<Vec<T>>) -> Result<R>,
    ) -> Result<R> {
        // The lead's own error keeps its kind.
        let (own, own_error) = match own {
            Ok(value) => (Ok(value), None),
            Err(error) => (Err(error.to_string()), Some(error)),
        };
        let gathered = self.control.gather(Channel::Save, encode(&own)?)?;
        let Some(gathered) = gathered else {
            let verdict = self.control.broadcast(Channel::Save, Vec::new())?;
            return own_error
                .map_or_else(|| decode::<Result<R, String>>(&verdict)?.map_err(Error::Fault), Err);
        };
        let mut all = Ok(Vec::with_capacity(gathered.len()));
        for (rank, bytes) in gathered.iter().enumerate() {
            match (&mut all, decode::<Result<T, String>>(bytes)?) {
                (Ok(values), Ok(value)) => values.push(value),
                (Ok(_), Err(why)) if rank > 0 => all = Err(Error::fault(format!("rank {rank}: {why}"))),
                (Ok(_), Err(why)) => all = Err(Error::fault(why)),
                (Err(_), _) => {}
            }
        }
        let decided = decide(match own_error {
            Some(error) => Err(error),
            None => all,
        });
        let verdict = decided.as_ref().map_err(ToString::to_string);
        self.control.broadcast(Channel::Save, encode(&verdict)?)?;
        decided
    }
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::fault(format!("a vote on a checkpoint: {error}")))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| Error::fault(format!("a vote on a checkpoint: {error}")))
}
