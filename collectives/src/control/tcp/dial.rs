//! Ranks other than 0 at the rendezvous: they call until rank 0 answers.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handshake::{Claim, Refusal, Timed, introduce};
use super::spoke::Spoke;
use super::wire::Message;
use super::{Rendezvous, Tcp, seconds};
use crate::control::inbox::Inbox;
use crate::control::member::Member;
use crate::control::{Failure, Progress, host_name};

/// Pauses between attempts grow from the first to the last: a thousand ranks must not storm a late rank 0.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// One attempt takes this long at most.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Rank 0 may have started after this rank, and waits as long as this one for the others.
const MARGIN: Duration = Duration::from_secs(5);

/// The patience of these ranks, over that of rank 0.
const LONGER: f64 = 1.25;

pub(super) fn dial(meeting: &Rendezvous) -> Result<Tcp, Failure> {
    let stream = call(meeting)?;
    await_start(meeting, &stream)?;
    let (inbox, progress) = (Arc::<Inbox>::default(), Progress::default());
    let spoke = Spoke::start(meeting, stream, &inbox, &progress).map_err(|error| {
        let hint = "hint: limit of threads (ulimit -u)";
        Failure::fault(meeting.rank, format!("cannot serve the connection to rank 0: {error}; {hint}"))
    })?;
    // Rank 0 sees which ranks have come, so it is to speak first, unless it is the late one.
    let patience = meeting.patience.map(|patience| patience.mul_f64(LONGER));
    let member = Member::new(meeting.rank, meeting.world_size, inbox, progress, Arc::new(spoke));
    let member = member.with_patience(patience);
    Ok(Tcp { member, refused: Vec::new() })
}

fn call(meeting: &Rendezvous) -> Result<TcpStream, Failure> {
    let Rendezvous { rank, world_size, host, port, timeout, .. } = meeting;
    let claim = Claim { rank: *rank, world_size: *world_size, host: host_name() };
    let deadline = Instant::now() + *timeout;
    let mut pause = PAUSE_MIN;
    loop {
        let error = match attempt(meeting, &claim, deadline) {
            Ok(stream) => return Ok(stream),
            Err(Refusal::Refused(why)) => {
                return Err(Failure::fault(
                    *rank,
                    format!("is not accepted by rank 0 at {host}:{port}: {why}"),
                ));
            }
            Err(Refusal::Broken(error)) => error,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let within = seconds(*timeout);
            let hint = format!("is rank 0 running, does {host} resolve here, and is port {port} open?");
            let cause =
                format!("cannot reach rank 0 at {host}:{port} within {within}: {error}; hint: {hint}");
            return Err(Failure::fault(*rank, cause));
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn attempt(meeting: &Rendezvous, claim: &Claim, deadline: Instant) -> Result<TcpStream, Refusal> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (meeting.host.as_str(), meeting.port).to_socket_addrs()? {
        // At least a little, so that a timeout of 0 is one attempt.
        let left = deadline.saturating_duration_since(Instant::now()).clamp(PAUSE_MIN, ATTEMPT);
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => {
                // Messages are short and waited for.
                stream.set_nodelay(true)?;
                introduce(&stream, &meeting.secret, claim, ATTEMPT)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last.into())
}

/// Rank 0 says when all are here, or why that will not be.
fn await_start(meeting: &Rendezvous, stream: &TcpStream) -> Result<(), Failure> {
    let deadline = Instant::now() + meeting.timeout + MARGIN;
    let ended = match Message::read(&mut Timed { stream, deadline }) {
        Ok(Some(Message::Start)) => return Ok(()),
        Ok(Some(Message::Fail(failure))) => return Err(failure),
        Ok(Some(_)) => "it sent something else".to_owned(),
        Ok(None) => "connection closed".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(Failure::fault(0, format!("ended before all ranks were there ({ended}); hint: see its own output")))
}
