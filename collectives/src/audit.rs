//! Calls and payload bytes of every communicator, by kind of collective.
//!
//! The payload of a call is the full tensor's bytes, whatever the number of ranks and the algorithm: an
//! algorithm's factor (`(n - 1) / n` of a ring) is applied by whoever compares with a network.
//! `docs/communication.md` says what a training step must come to.

/// A kind of collective operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Collective {
    /// Every rank ends with the reduction of all buffers.
    AllReduce,
    /// Every rank ends with its slice of the reduction.
    ReduceScatter,
    /// Every rank ends with all slices.
    AllGather,
    /// Every rank ends with one slice of each rank.
    AllToAll,
    /// Every rank ends with the root's buffer.
    Broadcast,
    /// A buffer to one other rank.
    Send,
    /// A buffer from one other rank.
    Recv,
    /// No data; every rank waits for all.
    Barrier,
}

impl Collective {
    /// Every kind, in the order in which reports print them.
    pub const ALL: [Collective; 8] = [
        Collective::AllReduce,
        Collective::ReduceScatter,
        Collective::AllGather,
        Collective::AllToAll,
        Collective::Broadcast,
        Collective::Send,
        Collective::Recv,
        Collective::Barrier,
    ];

    /// The name in messages, traces and plans.
    pub const fn name(self) -> &'static str {
        match self {
            Collective::AllReduce => "all_reduce",
            Collective::ReduceScatter => "reduce_scatter",
            Collective::AllGather => "all_gather",
            Collective::AllToAll => "all_to_all",
            Collective::Broadcast => "broadcast",
            Collective::Send => "send",
            Collective::Recv => "recv",
            Collective::Barrier => "barrier",
        }
    }

    /// Bytes that a rank of `ranks` sends per byte of payload, with a ring: `(n - 1) / n` for a gather, a
    /// scatter and an exchange, twice that for an all-reduce.
    pub fn sent_per_payload(self, ranks: usize) -> f64 {
        let others = (ranks - 1) as f64 / ranks as f64;
        match self {
            Collective::AllReduce => 2.0 * others,
            Collective::ReduceScatter | Collective::AllGather | Collective::AllToAll => others,
            Collective::Broadcast | Collective::Send => 1.0,
            Collective::Recv | Collective::Barrier => 0.0,
        }
    }
}

/// What one kind of collective moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Number of calls.
    pub calls: u64,
    /// Sum of the full tensors' bytes.
    pub payload_bytes: u64,
}

/// Counters of one communicator.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Audit {
    by_kind: [Traffic; Collective::ALL.len()],
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

    /// All calls so far.
    pub fn calls(&self) -> u64 {
        self.by_kind.iter().map(|traffic| traffic.calls).sum()
    }

    /// Both together.
    pub fn and(&self, other: &Audit) -> Audit {
        let mut sum = *self;
        for (traffic, other) in sum.by_kind.iter_mut().zip(&other.by_kind) {
            traffic.calls += other.calls;
            traffic.payload_bytes += other.payload_bytes;
        }
        sum
    }

    /// What was counted since `earlier`, a copy of this audit.
    pub fn since(&self, earlier: &Audit) -> Audit {
        let mut difference = *self;
        for (traffic, before) in difference.by_kind.iter_mut().zip(&earlier.by_kind) {
            traffic.calls -= before.calls;
            traffic.payload_bytes -= before.payload_bytes;
        }
        difference
    }
}
