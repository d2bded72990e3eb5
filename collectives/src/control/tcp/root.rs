//! Rank 0 after the rendezvous: the hub, a connection to each other rank, and the watch over their lives.

use std::io::{self, BufReader};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::Rendezvous;
use super::link::{self, Heard, Link, Ticker, spawn};
use super::outbox::Outbox;
use super::spoke::DEPUTY;
use super::wire::{Message, fits};
use crate::control::board::Board;
use crate::control::hub::{Hub, Seat};
use crate::control::inbox::Inbox;
use crate::control::member::Route;
use crate::control::rounds::{Call, Key};
use crate::control::{Failure, Progress, RankReport, host_name, lock};

/// How long the end waits for last words to be written.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long a report waits for the last notes of living ranks. Less than what launchers leave between the death
/// of one process and the end of the others (Open MPI: two seconds).
const LAST_NOTES: Duration = Duration::from_millis(500);

/// A rank of which nothing is heard for so long is missed, though not yet dead.
const MISSED: Duration = Duration::from_millis(3 * link::BEAT.as_millis() as u64);

/// How long the news of its death may take to leave for a rank that does not take it.
pub(super) const OBITUARY: Duration = Duration::from_millis(100);

/// See the module.
pub(super) struct Root {
    hub: Hub,
    /// Of ranks 1, 2, ...
    peers: Vec<Peer>,
    ticker: Mutex<Option<Ticker>>,
    leaving: AtomicBool,
    /// This process was stopped for so long that its deputy has reported in its place.
    succeeded: AtomicBool,
}

#[derive(Default)]
struct Peer {
    outbox: Arc<Outbox>,
    /// From the rendezvous on.
    link: OnceLock<Arc<Link>>,
}

impl Root {
    /// Nobody is here yet.
    pub(super) fn new(world_size: usize, inbox: &Arc<Inbox>, progress: &Progress) -> Arc<Self> {
        let peers: Vec<Peer> = (1..world_size).map(|_| Peer::default()).collect();
        let mut seats: Vec<Box<dyn Seat>> = vec![Box::new(Arc::clone(inbox))];
        seats.extend(peers.iter().map(|peer| Box::new(Arc::clone(&peer.outbox)) as Box<dyn Seat>));
        let board = Board::new(world_size, &host_name(), vec![(0, progress.clone())]);
        let hub = Hub::new(seats, board);
        let (leaving, succeeded) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Root { hub, peers, ticker: Mutex::new(None), leaving, succeeded })
    }

    pub(super) fn hub(&self) -> &Hub {
        &self.hub
    }

    pub(super) fn is_here(&self, rank: usize) -> bool {
        rank == 0 || self.peers[rank - 1].link.get().is_some()
    }

    /// `rank` is here, on this connection.
    pub(super) fn seat(self: &Arc<Self>, rank: usize, host: &str, stream: TcpStream) -> io::Result<()> {
        let peer = &self.peers[rank - 1];
        let link = Link::new(stream)?;
        let link = peer.link.get_or_init(|| link);
        self.hub.board().seat(rank, host);
        peer.outbox.start(Arc::clone(link))?;
        let (root, link) = (Arc::clone(self), Arc::clone(link));
        spawn("control-read", move || {
            root.serve(rank, &link);
            link.unread();
        })
    }

    /// All ranks are here: their lives are watched from now on.
    pub(super) fn start(self: &Arc<Self>, meeting: &Rendezvous) -> io::Result<()> {
        for peer in &self.peers {
            peer.link.get().iter().for_each(|link| link.heard());
            peer.outbox.send(&Message::Start);
        }
        let (root, meeting) = (Arc::clone(self), meeting.clone());
        let mut told = 0;
        let ticker = Ticker::start(meeting.beat(), move |gap| {
            root.beat(&mut told);
            root.watch(&meeting, gap);
        })?;
        *lock(&self.ticker) = Some(ticker);
        Ok(())
    }

    /// A sign of life to all, and to the deputy what has changed since it was `told`.
    fn beat(&self, told: &mut u64) {
        let beat = Message::Beat.frame();
        // A rank that does not take what it has been sent needs no more of it.
        for peer in self.peers.iter().filter(|peer| peer.outbox.is_empty()) {
            peer.outbox.queue(Arc::clone(&beat));
        }
        if let Some(deputy) = self.peers.first() {
            let (changes, version) = self.hub.board().changes(*told);
            if !changes.is_empty() {
                deputy.outbox.send(&Message::Board(changes));
            }
            *told = version;
        }
    }

    fn watch(&self, meeting: &Rendezvous, gap: Duration) {
        let was_stopped = gap > meeting.dead_after / 2;
        for (rank, peer) in (1..).zip(&self.peers) {
            let Some(link) = peer.link.get() else { continue };
            if was_stopped {
                link.heard();
            } else if link.silence() > meeting.dead_after && link.end() {
                self.hub.die(rank, meeting.silent());
                // A rank that was only stopped must read that, and not take the end for the death of rank 0.
                peer.outbox.close();
                peer.outbox.drain(Instant::now() + OBITUARY);
                link.cut();
            }
        }
    }

    /// What `accuser` says of another rank is that it is late. If that one lives and a third does not, it was late
    /// because it waited for the third.
    fn blame(&self, accuser: usize, failure: Failure) -> Failure {
        let link = |rank: usize| self.peers.get(rank.wrapping_sub(1)).and_then(|peer| peer.link.get());
        let is_missed = |rank: &usize| link(*rank).is_some_and(|link| link.is_silent(MISSED));
        if failure.rank == accuser || is_missed(&failure.rank) {
            return failure;
        }
        match (1..=self.peers.len()).find(is_missed) {
            Some(rank) => {
                let silence = link(rank).map_or(0.0, |link| link.silence().as_secs_f64());
                Failure { rank, cause: format!("no sign of life for {silence:.1} s; {failure}"), ..failure }
            }
            None => failure,
        }
    }

    /// Reads what `rank` says until it has no more to say.
    fn serve(&self, rank: usize, link: &Link) {
        let mut stream = BufReader::new(Heard(link));
        let cause = loop {
            match Message::read(&mut stream) {
                Ok(Some(Message::Deposit { key, call })) => self.hub.deposit(rank, key, call),
                Ok(Some(Message::Beat)) => {}
                Ok(Some(Message::Note(activity, age_s))) => self.hub.board().note(rank, activity, age_s),
                Ok(Some(Message::Last(activity, age_s))) => self.hub.board().last(rank, activity, age_s),
                Ok(Some(Message::Late(number, waited))) => self.hub.blame_late(rank, number, &waited),
                Ok(Some(Message::Fail(failure))) => self.hub.fail(self.blame(rank, failure)),
                Ok(Some(Message::TakenForDead(failure))) => {
                    self.succeeded.fetch_or(rank == DEPUTY, Ordering::AcqRel);
                    self.hub.fail(failure);
                }
                Ok(Some(Message::Goodbye)) => {
                    link.end();
                    self.hub.leave(rank);
                    return self.peers[rank - 1].outbox.close();
                }
                Ok(Some(_)) => break "died: sent what only rank 0 may send".to_owned(),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    break format!("died: sent {error}");
                }
                Ok(None) | Err(_) => break "died: connection closed".to_owned(),
            }
        };
        if link.end() && !self.leaving.load(Ordering::Acquire) {
            self.hub.die(rank, cause);
        }
        self.peers[rank - 1].outbox.close();
        link.cut();
    }
}

impl Route for Arc<Root> {
    fn deposit(&self, key: Key, call: Call) {
        match fits(&call) {
            Ok(()) => self.hub.deposit(0, key, call),
            Err(bytes) => self.hub.fail(too_long(0, bytes)),
        }
    }

    fn late(&self, key: Key, waited: &str) -> Option<Failure> {
        self.hub.late(0, key, waited)
    }

    fn fail(&self, failure: Failure) {
        self.hub.fail(self.blame(0, failure));
    }

    fn report(&self) -> Option<Vec<RankReport>> {
        let reports = self.hub.board().take(LAST_NOTES);
        reports.filter(|_| !self.succeeded.load(Ordering::Acquire))
    }

    fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
        self.hub.leave(0);
        for peer in &self.peers {
            peer.outbox.send(&Message::Goodbye);
            peer.outbox.close();
        }
        let deadline = Instant::now() + LAST_WORDS;
        for peer in &self.peers {
            if let Some(link) = peer.link.get() {
                peer.outbox.drain(deadline);
                link.wait_until_unread(deadline);
                link.cut();
            }
        }
        drop(lock(&self.ticker).take());
    }
}

pub(super) fn too_long(rank: usize, bytes: usize) -> Failure {
    let bytes_max = super::wire::MESSAGE_BYTES_MAX;
    Failure::fault(rank, format!("called with {bytes} bytes, where a message has {bytes_max} at most"))
}
