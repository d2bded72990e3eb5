//! How two processes make sure that they belong to the same run, before a message is believed.
//!
//! ```text
//! rank r -> rank 0   magic, version, challenge
//! rank 0 -> rank r   magic, version, challenge, proof of the secret over both challenges
//! rank r -> rank 0   rank, world size, host, proof over both challenges and these
//! rank 0 -> rank r   welcome, or why not
//! ```
//! The secret never travels. It keeps strangers and ranks of other runs out; what is said afterwards is
//! neither encrypted nor signed, so it does not protect from somebody who can change packets on the way.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::wire::{length_first, malformed, read_block};

const MAGIC: [u8; 8] = *b"tisscont";
const VERSION: u32 = 1;
/// Longest block of the handshake.
const BLOCK_BYTES_MAX: usize = 1024;
const CHALLENGE_BYTES: usize = 32;
const PROOF_BYTES: usize = blake3::OUT_LEN;

/// What the ranks of one run share, and nobody else knows.
#[derive(Clone)]
pub struct Secret {
    key: [u8; blake3::KEY_LEN],
}

impl Secret {
    /// The secret that these bytes make.
    pub fn new(bytes: &[u8]) -> Self {
        Secret { key: blake3::derive_key("tisserand control plane 1", bytes) }
    }

    /// `side` keeps one side's proof from being sent back as the other's.
    fn proof(&self, side: &str, challenges: &[&[u8]], claim: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(side.as_bytes());
        challenges.iter().for_each(|challenge| {
            hasher.update(challenge);
        });
        hasher.update(claim);
        hasher.finalize()
    }
}

/// A secret is not printed.
impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret")
    }
}

/// Who a process says that it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Claim {
    pub(super) rank: usize,
    pub(super) world_size: usize,
    pub(super) host: String,
}

impl Claim {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((self.rank as u64).to_le_bytes());
        bytes.extend((self.world_size as u64).to_le_bytes());
        // A name beyond what a host can have is cut, wherever: it is only shown.
        bytes.extend(self.host.bytes().take(256));
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (rank, bytes) = bytes.split_first_chunk()?;
        let (world_size, host) = bytes.split_first_chunk()?;
        Some(Claim {
            rank: u64::from_le_bytes(*rank).try_into().ok()?,
            world_size: u64::from_le_bytes(*world_size).try_into().ok()?,
            host: printable(host),
        })
    }
}

/// Why a handshake did not succeed.
pub(super) enum Refusal {
    /// The connection broke, or the peer is something else: another attempt may do better.
    Broken(io::Error),
    /// The peer answered, and another attempt would not change it.
    Refused(String),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Refusal::Broken(error)
    }
}

/// Rank 0's part, up to the verdict: who calls.
pub(super) fn receive(stream: &TcpStream, secret: &Secret, patience: Duration) -> Result<Claim, Refusal> {
    let mut stream = Timed { stream, deadline: Instant::now() + patience };
    let (version, theirs) = read_hello(&mut stream)?;
    let ours = challenge()?;
    let proof = secret.proof("root", &[&theirs, &ours], &[]);
    stream.write_all(&[&hello(&ours)[..], proof.as_bytes()].concat())?;
    if version != VERSION {
        return Err(Refusal::Refused(other_version(version)));
    }
    let claim = read_block(&mut stream, BLOCK_BYTES_MAX)?.ok_or_else(|| malformed("no claim"))?;
    let mut proof = [0; PROOF_BYTES];
    stream.read_exact(&mut proof)?;
    // Compared in constant time.
    if secret.proof("rank", &[&theirs, &ours], &claim) != proof {
        let why = "it has another secret; hint: a process of another run, or another file of the secret";
        verdict(stream.stream, Some(why))?;
        return Err(Refusal::Refused(why.to_owned()));
    }
    Claim::parse(&claim).ok_or_else(|| malformed("a claim without meaning").into())
}

/// Rank 0's last word: welcome, or why not.
pub(super) fn verdict(mut stream: &TcpStream, why_not: Option<&str>) -> io::Result<()> {
    let why_not = why_not.unwrap_or_default().as_bytes();
    stream.write_all(&length_first(&why_not[..why_not.len().min(BLOCK_BYTES_MAX)]))
}

/// The part of the others.
pub(super) fn introduce(
    stream: &TcpStream,
    secret: &Secret,
    claim: &Claim,
    patience: Duration,
) -> Result<(), Refusal> {
    let mut stream = Timed { stream, deadline: Instant::now() + patience };
    let ours = challenge()?;
    stream.write_all(&hello(&ours))?;
    let (version, theirs) = read_hello(&mut stream)?;
    let mut proof = [0; PROOF_BYTES];
    stream.read_exact(&mut proof)?;
    if version != VERSION {
        return Err(Refusal::Refused(other_version(version)));
    }
    let same_secret = secret.proof("root", &[&ours, &theirs], &[]) == proof;
    // Also to one with another secret, so that it can say so on its side.
    let bytes = claim.bytes();
    let proof = secret.proof("rank", &[&ours, &theirs], &bytes);
    stream.write_all(&[&length_first(&bytes)[..], proof.as_bytes()].concat())?;
    if !same_secret {
        let why = "it has another secret; hint: rank 0 of another run holds the port, or another file of the secret";
        return Err(Refusal::Refused(why.to_owned()));
    }
    let why_not = read_block(&mut stream, BLOCK_BYTES_MAX)?.ok_or_else(|| malformed("no verdict"))?;
    if why_not.is_empty() { Ok(()) } else { Err(Refusal::Refused(printable(&why_not))) }
}

fn other_version(version: u32) -> String {
    format!(
        "it speaks version {version} of the protocol, this one {VERSION}; hint: start the same binary everywhere"
    )
}

fn hello(challenge: &[u8; CHALLENGE_BYTES]) -> Vec<u8> {
    [&MAGIC[..], &VERSION.to_le_bytes(), challenge].concat()
}

fn read_hello(stream: &mut impl Read) -> io::Result<(u32, [u8; CHALLENGE_BYTES])> {
    let (mut magic, mut version, mut challenge) = ([0; 8], [0; 4], [0; CHALLENGE_BYTES]);
    stream.read_exact(&mut magic)?;
    if magic != MAGIC {
        return Err(malformed("something else than a rank"));
    }
    stream.read_exact(&mut version)?;
    stream.read_exact(&mut challenge)?;
    Ok((u32::from_le_bytes(version), challenge))
}

fn challenge() -> io::Result<[u8; CHALLENGE_BYTES]> {
    let mut bytes = [0; CHALLENGE_BYTES];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Bytes of a stranger, fit for a line of a log.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).collect()
}

/// A stream with a deadline for the whole conversation, so that one byte a second does not prolong it.
pub(super) struct Timed<'a> {
    pub(super) stream: &'a TcpStream,
    pub(super) deadline: Instant,
}

/// Sockets say "try again" when their time is over.
fn late(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

impl Timed<'_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(bytes).map_err(late)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes).map_err(late)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
