//! Rank 0 at the rendezvous: it listens until all others have come.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use super::handshake::{Claim, Refusal, receive, verdict};
use super::link::spawn;
use super::root::Root;
use super::{Rendezvous, Tcp, seconds};
use crate::control::inbox::Inbox;
use crate::control::member::Member;
use crate::control::{Failure, Progress};

/// How long a caller has to prove who it is. Scanners that say nothing are dropped then.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How often the port is looked at. The standard library's `accept` has no timeout.
const LOOK: Duration = Duration::from_millis(5);

/// Callers who have not proved themselves, beyond one for each rank.
const STRANGERS_MAX: usize = 64;

/// Lines about callers who were turned away.
const REFUSED_MAX: usize = 8;

/// The port of rank 0, before the others come.
pub struct Listener {
    socket: TcpListener,
}

/// A caller whose handshake has ended.
struct Caller {
    address: SocketAddr,
    stream: TcpStream,
    claim: Result<Claim, Refusal>,
}

impl Listener {
    /// Listens on `port` of all interfaces, IPv6 and IPv4; 0 is a free one.
    ///
    /// # Errors
    /// The port is taken or not allowed.
    pub fn bind(port: u16) -> Result<Listener, Failure> {
        let socket = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|error| match error.kind() {
            // What is taken stays taken; anything else may be a machine without IPv6.
            io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied => Err(error),
            _ => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)),
        });
        let socket = socket.and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        socket.map(|socket| Listener { socket }).map_err(|error| {
            let hint = "hint: another run on this machine? choose a port with MASTER_PORT";
            Failure::fault(0, format!("cannot listen on port {port}: {error}; {hint}"))
        })
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.socket.local_addr().map_or(0, |address| address.port())
    }

    /// Waits until all others have come, as rank 0.
    ///
    /// # Errors
    /// Some do not come in time: they are named. Those who came get the same failure.
    pub fn accept(self, meeting: &Rendezvous) -> Result<Tcp, Failure> {
        meeting.check()?;
        let (inbox, progress) = (Arc::<Inbox>::default(), Progress::default());
        let root = Root::new(meeting.world_size, &inbox, &progress);
        let route = Arc::new(Arc::clone(&root));
        // Dropped on the way out, it says goodbye to those who came.
        let member =
            Member::new(0, meeting.world_size, inbox, progress, route).with_patience(meeting.patience);
        let mut refused = Vec::new();
        let met =
            self.gather(meeting, &root, &mut refused).and_then(|()| root.start(meeting).map_err(no_thread));
        match met {
            Ok(()) => Ok(Tcp { member, refused }),
            Err(failure) => {
                root.hub().fail(failure);
                Err(root.hub().failure().expect("a hub that was failed has a failure"))
            }
        }
    }

    fn gather(
        &self,
        meeting: &Rendezvous,
        root: &Arc<Root>,
        refused: &mut Vec<String>,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + meeting.timeout;
        let (sender, callers) = mpsc::channel();
        let mut at_door = 0;
        let mut missing = meeting.world_size - 1;
        while missing > 0 {
            at_door += self.let_in(meeting, &sender, at_door)?;
            if let Ok(caller) = callers.recv_timeout(LOOK) {
                at_door -= 1;
                let address = caller.address;
                match seat(meeting, root, caller)? {
                    Ok(()) => missing -= 1,
                    Err(why) if refused.len() < REFUSED_MAX => {
                        refused.push(format!("{}: {why}", address.ip().to_canonical().to_canonical()))
                    }
                    Err(_) => {}
                }
            }
            if let Some(failure) = root.hub().failure() {
                return Err(failure);
            }
            if missing > 0 && Instant::now() > deadline {
                return Err(absent(meeting, root, refused));
            }
        }
        Ok(())
    }

    /// Starts a thread for each caller at the port; how many.
    fn let_in(
        &self,
        meeting: &Rendezvous,
        sender: &Sender<Caller>,
        at_door: usize,
    ) -> Result<usize, Failure> {
        let mut new = 0;
        loop {
            let (stream, address) = match self.socket.accept() {
                Ok(caller) => caller,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(new),
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => continue,
                    _ => {
                        let hint = "hint: limit of open files (ulimit -n)";
                        return Err(Failure::fault(0, format!("cannot take connections: {error}; {hint}")));
                    }
                },
            };
            if at_door + new >= meeting.world_size + STRANGERS_MAX {
                // A rank among them calls again.
                continue;
            }
            let (secret, sender) = (meeting.secret.clone(), sender.clone());
            spawn("control-meet", move || {
                let ready = stream.set_nonblocking(false).and_then(|()| stream.set_nodelay(true));
                let claim = ready.map_err(Refusal::from).and_then(|()| receive(&stream, &secret, HANDSHAKE));
                // Nobody is there to take it if the rendezvous has ended meanwhile.
                let _ = sender.send(Caller { address, stream, claim });
            })
            .map_err(no_thread)?;
            new += 1;
        }
    }
}

/// Gives a caller its seat, or says why not.
fn seat(meeting: &Rendezvous, root: &Arc<Root>, caller: Caller) -> Result<Result<(), String>, Failure> {
    let Caller { stream, claim, .. } = caller;
    let Claim { rank, world_size, host } = match claim {
        Ok(claim) => claim,
        Err(Refusal::Refused(why)) => return Ok(Err(why)),
        Err(Refusal::Broken(error)) => return Ok(Err(format!("no rank: {error}"))),
    };
    let why_not = if world_size != meeting.world_size {
        let ours = meeting.world_size;
        Some(format!(
            "rank {rank} on {host} counts {world_size} ranks, rank 0 counts {ours}; hint: one launch"
        ))
    } else if rank >= world_size {
        Some(format!("rank {rank} on {host} is not below the number of ranks, {world_size}"))
    } else if root.is_here(rank) {
        Some(format!("rank {rank} on {host} is already here; hint: two launches with one port?"))
    } else {
        None
    };
    let told = verdict(&stream, why_not.as_deref());
    match (why_not, told) {
        (Some(why), _) => Ok(Err(why)),
        (None, Err(error)) => Ok(Err(format!("rank {rank} on {host}: {error}"))),
        (None, Ok(())) => root.seat(rank, &host, stream).map(Ok).map_err(no_thread),
    }
}

fn absent(meeting: &Rendezvous, root: &Root, refused: &[String]) -> Failure {
    let Rendezvous { world_size, host, port, timeout, .. } = meeting;
    let missing: Vec<usize> = (0..*world_size).filter(|&rank| !root.is_here(rank)).collect();
    let first = missing.iter().take(16).map(usize::to_string).collect::<Vec<_>>().join(", ");
    let more = if missing.len() > 16 { ", ..." } else { "" };
    let turned_away =
        if refused.is_empty() { String::new() } else { format!("; turned away: {}", refused.join(" | ")) };
    let count = missing.len();
    let within = seconds(*timeout);
    let cause = format!(
        "did not come to {host}:{port} within {within} ({count} of {world_size} ranks missing: {first}{more}\
         {turned_away}); hint: did they start, and can they reach {host}?"
    );
    Failure::fault(missing.first().copied().unwrap_or(0), cause)
}

fn no_thread(error: io::Error) -> Failure {
    Failure::fault(0, format!("cannot serve a connection: {error}; hint: limit of threads (ulimit -u)"))
}
