//! A rank other than 0 after the rendezvous: one connection, to rank 0.

use std::io::{self, BufReader};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::Rendezvous;
use super::link::{Heard, Link, Ticker, spawn};
use super::outbox::Outbox;
use super::root::{LAST_WORDS, OBITUARY, too_long};
use super::wire::{Message, fits};
use crate::control::board::Board;
use crate::control::hub::Delivery;
use crate::control::inbox::{Inbox, run};
use crate::control::member::Route;
use crate::control::rounds::{Call, Key};
use crate::control::{Channel, Failure, Progress, RankReport, host_name, lock};

/// Who reports if rank 0 is dead.
pub(super) const DEPUTY: usize = 1;

/// See the module.
pub(super) struct Spoke {
    rank: usize,
    inbox: Arc<Inbox>,
    progress: Progress,
    outbox: Arc<Outbox>,
    link: Arc<Link>,
    /// What rank 0 told of the others, if this is its deputy.
    board: Board,
    root_is_dead: AtomicBool,
    /// Rank 0 was told of a failure here and did not answer.
    root_is_mute: AtomicBool,
    leaving: AtomicBool,
    ticker: Mutex<Option<Ticker>>,
}

impl Spoke {
    /// On a connection over which rank 0 has said that all are here.
    pub(super) fn start(
        meeting: &Rendezvous,
        stream: TcpStream,
        inbox: &Arc<Inbox>,
        progress: &Progress,
    ) -> io::Result<Arc<Self>> {
        let spoke = Arc::new(Spoke {
            rank: meeting.rank,
            inbox: Arc::clone(inbox),
            progress: progress.clone(),
            outbox: Arc::default(),
            link: Link::new(stream)?,
            board: Board::new(meeting.world_size, &host_name(), vec![(meeting.rank, progress.clone())]),
            root_is_dead: AtomicBool::new(false),
            root_is_mute: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            ticker: Mutex::new(None),
        });
        spoke.outbox.start(Arc::clone(&spoke.link))?;
        let reader = Arc::clone(&spoke);
        spawn("control-read", move || {
            reader.listen();
            reader.link.unread();
        })?;
        let (beating, meeting) = (Arc::clone(&spoke), meeting.clone());
        let mut told = None;
        let ticker = Ticker::start(meeting.beat(), move |gap| {
            beating.beat(&mut told);
            beating.watch(&meeting, gap);
        })?;
        *lock(&spoke.ticker) = Some(ticker);
        Ok(spoke)
    }

    /// A sign of life, with what this rank does if that has changed since it was `told`.
    fn beat(&self, told: &mut Option<Instant>) {
        // If rank 0 does not take what it has been sent, more of it would only pile up.
        if !self.outbox.is_empty() {
            return;
        }
        let (activity, noted) = self.progress.snapshot();
        let message = match told.replace(noted) {
            Some(before) if before == noted => Message::Beat,
            _ => Message::Note(activity, noted.elapsed().as_secs_f64()),
        };
        self.outbox.send(&message);
    }

    fn watch(&self, meeting: &Rendezvous, gap: Duration) {
        if gap > meeting.dead_after / 2 {
            self.link.heard();
        } else if self.link.silence() > meeting.dead_after && self.link.end() {
            self.outbox.send(&Message::TakenForDead(Failure::fault(0, meeting.silent())));
            self.root_died(&meeting.silent());
            self.outbox.close();
            self.outbox.drain(Instant::now() + OBITUARY);
            self.link.cut();
        }
    }

    /// Reads what rank 0 says until it has no more to say.
    fn listen(&self) {
        let mut stream = BufReader::new(Heard(&self.link));
        let cause = loop {
            match Message::read(&mut stream) {
                Ok(Some(Message::Outcome { key, outcome })) => {
                    self.inbox.deliver(Delivery::new(key, outcome))
                }
                Ok(Some(Message::Beat)) => {}
                Ok(Some(Message::Board(reports))) => self.board.merge(reports),
                Ok(Some(Message::Fail(failure))) => self.learn(&failure),
                Ok(Some(Message::Goodbye)) => {
                    self.link.end();
                    let cause = format!("left while rank {} still called", self.rank);
                    self.inbox.close(Failure::fault(0, cause));
                    // Nobody listens any more, and rank 0 waits for our end of the connection.
                    return self.outbox.close();
                }
                Ok(Some(_)) => break "died: sent what only other ranks may send".to_owned(),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    break format!("died: sent {error}");
                }
                Ok(None) | Err(_) => break "died: connection closed".to_owned(),
            }
        };
        if self.link.end() && !self.leaving.load(Ordering::Acquire) {
            self.root_died(&cause);
        }
        self.outbox.close();
    }

    fn root_died(&self, cause: &str) {
        self.board.gone(0, cause);
        self.root_is_dead.store(true, Ordering::Release);
        self.learn(&Failure::fault(0, cause));
    }

    /// The run has failed: rank 0 gets to know what this one was doing, whoever waits here is woken.
    fn learn(&self, failure: &Failure) {
        let (activity, age_s) = self.progress.read();
        self.outbox.send(&Message::Last(activity, age_s));
        self.board.close(failure);
        run(self.inbox.trip(failure), failure);
    }
}

impl Route for Arc<Spoke> {
    fn deposit(&self, key: Key, call: Call) {
        match fits(&call) {
            Ok(()) => self.outbox.send(&Message::Deposit { key, call }),
            Err(bytes) => self.fail(too_long(self.rank, bytes)),
        }
    }

    /// Rank 0 would have said so if another were late; but it does not come to every meeting, and is asked who does
    /// not.
    fn late(&self, key: Key, waited: &str) -> Option<Failure> {
        if key.channel == Channel::Calls {
            self.outbox.send(&Message::Late(key.sequence, waited.to_owned()));
            return None;
        }
        Some(Failure::fault(0, format!("late: rank {} waited {waited} in {key}, for rank 0", self.rank)))
    }

    /// Rank 0 answers with the failure that was the first.
    fn fail(&self, failure: Failure) {
        self.outbox.send(&Message::Fail(failure));
    }

    fn report(&self) -> Option<Vec<RankReport>> {
        let is_dead = self.root_is_dead.load(Ordering::Acquire);
        let first = self.inbox.failure().is_some_and(|failure| failure.rank == 0);
        let speaks = (is_dead && first) || self.root_is_mute.load(Ordering::Acquire);
        if self.rank == DEPUTY && speaks { self.board.take(Duration::ZERO) } else { None }
    }

    /// Rank 0 is stopped, or hung: nothing that it has to say later is waited for.
    fn unanswered(&self, failure: &Failure) {
        if self.link.end() {
            self.root_is_mute.store(true, Ordering::Release);
            self.outbox.send(&Message::TakenForDead(failure.clone()));
            self.learn(failure);
            if failure.rank != 0 {
                self.board.gone(0, "does not answer");
            }
        }
    }

    fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
        self.outbox.send(&Message::Goodbye);
        self.outbox.close();
        let deadline = Instant::now() + LAST_WORDS;
        self.outbox.drain(deadline);
        self.link.wait_until_unread(deadline);
        self.link.cut();
        drop(lock(&self.ticker).take());
    }
}
