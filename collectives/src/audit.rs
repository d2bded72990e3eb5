//! Calls and payload bytes of every communicator, by kind of collective.

/// A kind of collective operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Collective {
    /// Every rank ends with the reduction of all buffers.
    AllReduce,
    /// Every rank ends with its slice of the reduction.
    ReduceScatter,
    /// Every rank ends with all slices.
    AllGather,
    /// Every rank ends with the root's buffer.
    Broadcast,
    /// No data; every rank waits for all.
    Barrier,
}

impl Collective {
    const COUNT: usize = 5;
}

/// What one kind of collective moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Number of calls.
    pub calls: u64,
    /// Sum of the full tensors' bytes, whatever the number of ranks: each algorithm's factor is applied
    /// by whoever compares with a network.
    pub payload_bytes: u64,
}

/// Counters of one communicator.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    by_kind: [Traffic; Collective::COUNT],
}

impl Audit {
    /// Counts one call with a full tensor of `payload_bytes`.
    pub fn count(&mut self, kind: Collective, payload_bytes: usize) {
        let traffic = &mut self.by_kind[kind as usize];
        traffic.calls += 1;
        traffic.payload_bytes += payload_bytes as u64;
    }

    /// What a kind of collective moved so far.
    pub fn of(&self, kind: Collective) -> Traffic {
        self.by_kind[kind as usize]
    }
}
