//! Messages as bytes: a length (u32), a tag, then the fields; integers in little-endian order, notes and
//! failures as JSON, the payload of calls as it is.

use std::io::{self, Read};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::control::rounds::{Call, Key, Outcome};
use crate::control::{Activity, Channel, Combine, Failure, RankReport};

/// Longest message: above any agreement, below what a stray length could make us allocate.
pub(super) const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// Bytes of a message besides its payload, at most.
const HEADER_BYTES_MAX: usize = 32;

/// What goes over a connection after the handshake.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Message {
    /// From rank 0: all ranks are here.
    Start,
    /// To rank 0: a rank comes to a round.
    Deposit { key: Key, call: Call },
    /// From rank 0: what came of it.
    Outcome { key: Key, outcome: Outcome },
    /// To rank 0: this one has waited too long at a meeting, as the text tells; the answer is a failure, or the outcome.
    Late(u64, String),
    /// A sign of life.
    Beat,
    /// To rank 0: what the rank did, how many seconds ago.
    Note(Activity, f64),
    /// To rank 0: the same, when it has heard of a failure.
    Last(Activity, f64),
    /// From rank 0 to its deputy: what changed on the board.
    Board(Vec<RankReport>),
    /// To rank 0: this one cannot go on. From rank 0: the run has failed.
    Fail(Failure),
    /// Nothing more will come, and that is no death.
    Goodbye,
    /// To rank 0, which has not been heard for too long: it counts as dead, and if it is not, it was stopped and
    /// reads this when it goes on.
    TakenForDead(Failure),
}

/// Whether a call fits into a message, or how many bytes it has.
pub(super) fn fits(call: &Call) -> Result<(), usize> {
    let bytes = match call {
        Call::Reduce { words, .. } => words.len().saturating_mul(8),
        Call::Gather(bytes) | Call::Broadcast(bytes) => bytes.len(),
        // All members' bytes go back in one message.
        Call::Meet { members, bytes } => members.len().saturating_mul(bytes.len().saturating_add(8)),
    };
    if bytes <= MESSAGE_BYTES_MAX - HEADER_BYTES_MAX { Ok(()) } else { Err(bytes) }
}

impl Message {
    /// The message with its length. Calls must fit.
    pub(super) fn frame(&self) -> Arc<[u8]> {
        // Room for the length, which is known last.
        let mut out = vec![0; 4];
        match self {
            Message::Start => out.push(0),
            Message::Deposit { key, call } => {
                put_key(&mut out, 1, key);
                match call {
                    Call::Reduce { combine: Combine::Sum, words } => put_words(&mut out, 0, words),
                    Call::Reduce { combine: Combine::Max, words } => put_words(&mut out, 1, words),
                    Call::Gather(bytes) => put_bytes(&mut out, 2, bytes),
                    Call::Broadcast(bytes) => put_bytes(&mut out, 3, bytes),
                    Call::Meet { members, bytes } => {
                        out.push(4);
                        out.extend((members.len() as u32).to_le_bytes());
                        out.extend(members.iter().flat_map(|member| member.to_le_bytes()));
                        out.extend_from_slice(bytes);
                    }
                }
            }
            Message::Outcome { key, outcome } => {
                put_key(&mut out, 2, key);
                match outcome {
                    Outcome::Words(words) => put_words(&mut out, 0, words),
                    Outcome::Bytes(bytes) => put_bytes(&mut out, 1, bytes),
                    // What was gathered stays at rank 0, which has no connection to itself.
                    Outcome::Nothing | Outcome::Gathered(_) => out.push(2),
                    Outcome::Met(all) => put_runs(&mut out, 3, all),
                }
            }
            Message::Beat => out.push(3),
            Message::Note(activity, age_s) => put_json(&mut out, 4, &(activity, age_s)),
            Message::Last(activity, age_s) => put_json(&mut out, 5, &(activity, age_s)),
            Message::Board(reports) => put_json(&mut out, 6, reports),
            Message::Fail(failure) => put_json(&mut out, 7, failure),
            Message::Goodbye => out.push(8),
            Message::TakenForDead(failure) => put_json(&mut out, 9, failure),
            Message::Late(number, waited) => put_json(&mut out, 10, &(number, waited)),
        }
        let length = u32::try_from(out.len() - 4).expect("calls fit into a message, and so do notes");
        out[..4].copy_from_slice(&length.to_le_bytes());
        out.into()
    }

    /// The next message; `None` at the end of the stream between two messages.
    pub(super) fn read(stream: &mut impl Read) -> io::Result<Option<Message>> {
        match read_block(stream, MESSAGE_BYTES_MAX)? {
            Some(block) => {
                Message::parse(&block).map(Some).ok_or_else(|| malformed("a message without meaning"))
            }
            None => Ok(None),
        }
    }

    fn parse(block: &[u8]) -> Option<Message> {
        let (&tag, rest) = block.split_first()?;
        Some(match (tag, rest) {
            (0, []) => Message::Start,
            (1, _) => {
                let (key, kind, payload) = take_key(rest)?;
                let call = match kind {
                    0 => Call::Reduce { combine: Combine::Sum, words: take_words(payload)? },
                    1 => Call::Reduce { combine: Combine::Max, words: take_words(payload)? },
                    2 => Call::Gather(payload.to_vec()),
                    3 => Call::Broadcast(payload.to_vec()),
                    4 => take_meeting(payload)?,
                    _ => return None,
                };
                Message::Deposit { key, call }
            }
            (2, _) => {
                let (key, kind, payload) = take_key(rest)?;
                let outcome = match kind {
                    0 => Outcome::Words(take_words(payload)?),
                    1 => Outcome::Bytes(payload.to_vec()),
                    2 if payload.is_empty() => Outcome::Nothing,
                    3 => Outcome::Met(take_runs(payload)?),
                    _ => return None,
                };
                Message::Outcome { key, outcome }
            }
            (3, []) => Message::Beat,
            (4, _) => take_json(rest).map(|(activity, age_s)| Message::Note(activity, age_s))?,
            (5, _) => take_json(rest).map(|(activity, age_s)| Message::Last(activity, age_s))?,
            (6, _) => Message::Board(take_json(rest)?),
            (7, _) => Message::Fail(take_json(rest)?),
            (8, []) => Message::Goodbye,
            (9, _) => Message::TakenForDead(take_json(rest)?),
            (10, _) => take_json(rest).map(|(number, waited)| Message::Late(number, waited))?,
            _ => return None,
        })
    }
}

/// A block with its length before it; `None` if the stream ends before it.
pub(super) fn read_block(stream: &mut impl Read, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    // An end before the first byte is the end of the conversation, a later one is a broken connection.
    loop {
        match stream.read(&mut length[..1]) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    stream.read_exact(&mut length[1..])?;
    let length = u32::from_le_bytes(length) as usize;
    if length > bytes_max {
        return Err(malformed(&format!("a message of {length} bytes, where {bytes_max} are the most")));
    }
    let mut block = Vec::new();
    // Memory grows with what has come, not with what was announced.
    if stream.take(length as u64).read_to_end(&mut block)? < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(block))
}

/// `block` with its length before it.
pub(super) fn length_first(block: &[u8]) -> Vec<u8> {
    let length = u32::try_from(block.len()).expect("blocks of the handshake are short");
    [&length.to_le_bytes(), block].concat()
}

pub(super) fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn put_key(out: &mut Vec<u8>, tag: u8, key: &Key) {
    let channel = match key.channel {
        Channel::Step => 0,
        Channel::Save => 1,
        Channel::Setup => 2,
        Channel::Calls => 3,
    };
    out.extend([tag, channel]);
    out.extend(key.sequence.to_le_bytes());
}

fn put_words(out: &mut Vec<u8>, kind: u8, words: &[u64]) {
    out.push(kind);
    out.extend(words.iter().flat_map(|word| word.to_le_bytes()));
}

fn put_bytes(out: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    out.push(kind);
    out.extend_from_slice(bytes);
}

/// Equal ones that follow each other go once, with their number: mostly all are equal.
fn put_runs(out: &mut Vec<u8>, kind: u8, all: &[Vec<u8>]) {
    out.push(kind);
    for run in all.chunk_by(|a, b| a == b) {
        out.extend((run.len() as u32).to_le_bytes());
        out.extend((run[0].len() as u32).to_le_bytes());
        out.extend_from_slice(&run[0]);
    }
}

fn put_json(out: &mut Vec<u8>, tag: u8, value: &impl Serialize) {
    out.push(tag);
    // These types have string keys and no failing parts; were one to fail, the reader would refuse the rest.
    out.extend(serde_json::to_vec(value).unwrap_or_default());
}

fn take_key(bytes: &[u8]) -> Option<(Key, u8, &[u8])> {
    let (&channel, bytes) = bytes.split_first()?;
    let channel = match channel {
        0 => Channel::Step,
        1 => Channel::Save,
        2 => Channel::Setup,
        3 => Channel::Calls,
        _ => return None,
    };
    let (sequence, bytes) = bytes.split_first_chunk()?;
    let (&kind, payload) = bytes.split_first()?;
    Some((Key { channel, sequence: u64::from_le_bytes(*sequence) }, kind, payload))
}

fn take_meeting(bytes: &[u8]) -> Option<Call> {
    let (num_members, bytes) = bytes.split_first_chunk()?;
    let (members, bytes) = bytes.split_at_checked(u32::from_le_bytes(*num_members) as usize * 4)?;
    let members = members.as_chunks().0.iter().map(|member| u32::from_le_bytes(*member)).collect();
    Some(Call::Meet { members, bytes: bytes.to_vec() })
}

fn take_runs(mut bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    let mut total_bytes = 0_usize;
    while !bytes.is_empty() {
        let (times, rest) = bytes.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (run, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let times = u32::from_le_bytes(*times) as usize;
        // What is sent is small; what it stands for must be bounded too.
        total_bytes = total_bytes.checked_add(times.checked_mul(run.len() + 8)?)?;
        if total_bytes > MESSAGE_BYTES_MAX {
            return None;
        }
        all.extend(std::iter::repeat_n(run.to_vec(), times));
        bytes = rest;
    }
    Some(all)
}

fn take_words(bytes: &[u8]) -> Option<Vec<u64>> {
    let (words, rest) = bytes.as_chunks();
    rest.is_empty().then(|| words.iter().map(|word| u64::from_le_bytes(*word)).collect())
}

fn take_json<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages() -> Vec<Message> {
        let key = Key { channel: Channel::Save, sequence: 1 << 40 };
        let activity = Activity { step: 7, action: Some("forward".into()), ..Activity::default() };
        let report = RankReport {
            rank: 3,
            host: "gpu01".to_owned(),
            activity: activity.clone(),
            age_s: 1.5,
            state: "running".to_owned(),
        };
        vec![
            Message::Start,
            Message::Deposit { key, call: Call::Reduce { combine: Combine::Sum, words: vec![1, u64::MAX] } },
            Message::Deposit { key, call: Call::Reduce { combine: Combine::Max, words: vec![] } },
            Message::Deposit { key, call: Call::Gather(vec![1, 2, 3]) },
            Message::Deposit { key, call: Call::Broadcast(vec![]) },
            Message::Outcome { key, outcome: Outcome::Words(vec![9]) },
            Message::Outcome { key, outcome: Outcome::Bytes(vec![9]) },
            Message::Outcome { key, outcome: Outcome::Nothing },
            Message::Deposit { key, call: Call::Meet { members: vec![1, 70_000], bytes: vec![4, 5] } },
            Message::Outcome { key, outcome: Outcome::Met(vec![vec![1, 2], vec![1, 2], vec![], vec![3]]) },
            Message::Late(u64::MAX, "9 s".to_owned()),
            Message::Beat,
            Message::Note(activity.clone(), 0.25),
            Message::Last(activity, 0.5),
            Message::Board(vec![report]),
            Message::Fail(Failure::fault(2, "loss is not finite")),
            Message::Goodbye,
            Message::TakenForDead(Failure::fault(0, "no sign of life for 8 s")),
        ]
    }

    #[test]
    fn messages_come_out_as_they_went_in() {
        let messages = messages();
        let stream: Vec<u8> = messages.iter().flat_map(|message| message.frame().to_vec()).collect();
        let mut stream = stream.as_slice();
        for message in messages {
            assert_eq!(Message::read(&mut stream).unwrap(), Some(message));
        }
        assert_eq!(Message::read(&mut stream).unwrap(), None);
    }

    #[test]
    fn a_cut_message_is_an_error_and_no_panic() {
        for message in messages() {
            let frame = message.frame();
            for length in 1..frame.len() {
                assert!(Message::read(&mut &frame[..length]).is_err(), "{message:?} cut to {length}");
                // The same bytes with an honest length: an error, or another message, but never a panic.
                let _ = Message::parse(&frame[4..length.max(4)]);
            }
        }
    }

    #[test]
    fn a_message_over_the_limit_is_refused_before_it_is_read() {
        let error = Message::read(&mut &[0xff, 0xff, 0xff, 0xff, 0][..]).unwrap_err().to_string();
        assert!(error.contains("4294967295 bytes"), "{error}");
        assert_eq!(fits(&Call::Gather(vec![0; 10])), Ok(()));
        assert_eq!(fits(&Call::Gather(vec![0; MESSAGE_BYTES_MAX])), Err(MESSAGE_BYTES_MAX));
    }
}
