//! What each rank calls, as it is told to the others, and the message if they do not agree.

use tisserand_kernels::DType;

use crate::{Call, Collective, ReduceOp};

/// What a call comes to for those who must make the same one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    /// The operation of a reduction, the root of a broadcast.
    detail: u32,
    dtype: DType,
    len: usize,
}

/// What a rank asks of its communicator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Collective(Collective),
    Split,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Kind::Collective(collective) => collective.name(),
            Kind::Split => "split",
        }
    }
}

const DTYPES: [DType; 5] = [DType::F32, DType::Bf16, DType::U32, DType::I32, DType::U8];

impl Header {
    /// Length as sent.
    pub(crate) const BYTES: usize = 32;

    pub(crate) fn of_call(call: Call, len: usize, dtype: DType) -> Self {
        let detail = match call {
            Call::AllReduce(op) | Call::ReduceScatter(op) => op as u32,
            Call::Broadcast { root } => root as u32,
            Call::AllGather | Call::AllToAll | Call::Send { .. } | Call::Recv { .. } => 0,
        };
        Header { kind: Kind::Collective(call.kind()), detail, dtype, len }
    }

    /// A barrier or a split.
    pub(crate) fn without_data(kind: Kind) -> Self {
        Header { kind, detail: 0, dtype: DType::U8, len: 0 }
    }

    pub(crate) fn encode(&self) -> [u8; Self::BYTES] {
        let kind = match self.kind {
            Kind::Collective(collective) => collective as u32,
            Kind::Split => Collective::ALL.len() as u32,
        };
        let dtype = DTYPES.iter().position(|dtype| *dtype == self.dtype).expect("every dtype is listed");
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.detail.to_le_bytes());
        bytes[8..12].copy_from_slice(&(dtype as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&(self.len as u64).to_le_bytes());
        bytes
    }

    /// The header that a rank of this program encoded; none of another one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let len = u64::from_le_bytes(*bytes.get(16..)?.first_chunk()?);
        let kind = match word(0)? as usize {
            split if split == Collective::ALL.len() => Kind::Split,
            collective => Kind::Collective(*Collective::ALL.get(collective)?),
        };
        let dtype = *DTYPES.get(word(8)? as usize)?;
        Some(Header { kind, detail: word(4)?, dtype, len: usize::try_from(len).ok()? })
    }

    /// Whether both ends of a message mean the same one.
    fn pairs_with(&self, other: &Header) -> bool {
        (self.len, self.dtype) == (other.len, other.dtype)
    }
}

impl std::fmt::Display for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Header { kind, detail, dtype, len } = self;
        f.write_str(kind.name())?;
        match kind {
            Kind::Split | Kind::Collective(Collective::Barrier) => return Ok(()),
            Kind::Collective(Collective::AllReduce | Collective::ReduceScatter) => {
                f.write_str(if *detail == ReduceOp::Sum as u32 { " (sum)" } else { " (max)" })?;
            }
            Kind::Collective(Collective::Broadcast) => write!(f, " (root {detail})")?,
            Kind::Collective(_) => {}
        }
        write!(f, " of {len} {dtype}")
    }
}

/// The line for ranks that do not make the same call: the first rank, and the first that differs from it.
/// The same at every rank. `call` names axis and number; `ranks` are those of the job.
pub(crate) fn mismatch(call: &str, ranks: &[usize], headers: &[Option<Header>]) -> Option<String> {
    let other = headers.iter().position(|header| *header != headers[0] || header.is_none())?;
    let said = |header: Option<Header>| {
        header.map_or_else(|| "something of another version".to_owned(), |header| header.to_string())
    };
    let (first, second) = (said(headers[0]), said(headers[other]));
    Some(format!("{call}: rank {} calls {first}, rank {} calls {second}", ranks[0], ranks[other]))
}

/// The line for a sender and a receiver that differ. The same at both.
pub(crate) fn unlike_pair(
    call: &str,
    (sender, sent): (usize, Option<Header>),
    (receiver, received): (usize, Option<Header>),
) -> Option<String> {
    let said = |header: Option<Header>| {
        header.map_or_else(|| "something of another version".to_owned(), |h| format!("{} {}", h.len, h.dtype))
    };
    if sent.zip(received).is_some_and(|(sent, received)| sent.pairs_with(&received)) {
        return None;
    }
    let (sent, received) = (said(sent), said(received));
    Some(format!("{call}: rank {sender} sends {sent}, rank {receiver} receives {received}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Header> {
        let (sum, max) = (ReduceOp::Sum, ReduceOp::Max);
        let calls =
            [Call::AllReduce(sum), Call::AllReduce(max), Call::AllGather, Call::Broadcast { root: 3 }];
        let dtypes = || DTYPES.into_iter();
        let headers =
            calls.into_iter().flat_map(|call| dtypes().map(move |d| Header::of_call(call, 1 << 40, d)));
        headers.chain([Header::without_data(Kind::Split)]).collect()
    }

    #[test]
    fn headers_read_back_and_differ() {
        for (i, header) in all().iter().enumerate() {
            assert_eq!(Header::decode(&header.encode()), Some(*header));
            assert!(all().iter().enumerate().all(|(j, other)| (i == j) == (header == other)));
        }
        assert_eq!(Header::decode(&[255; Header::BYTES]), None);
        assert_eq!(Header::decode(&[0; 7]), None);
    }

    #[test]
    fn ranks_that_differ_are_named() {
        let gather = Some(Header::of_call(Call::AllGather, 1024, DType::F32));
        let reduce = Some(Header::of_call(Call::ReduceScatter(ReduceOp::Sum), 2048, DType::F32));
        assert_eq!(mismatch("tp call #3", &[4, 5], &[gather, gather]), None);
        assert_eq!(
            mismatch("tp call #3", &[4, 5, 6], &[gather, gather, reduce]).unwrap(),
            "tp call #3: rank 4 calls all_gather of 1024 f32, rank 6 calls reduce_scatter (sum) of 2048 f32"
        );
        assert!(mismatch("tp call #3", &[4, 5], &[gather, None]).unwrap().contains("rank 5 calls something"));
    }
}
