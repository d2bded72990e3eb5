//! Messages on their way to one peer, and the thread that writes them.
//!
//! Whoever sends only queues: a peer that is stopped, and whose socket is full, must not hold up the news to
//! the others. The queue is short, since a rank has at most one call a channel under way.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::Shutdown;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::link::{Link, spawn};
use super::wire::Message;
use crate::control::hub::{Delivery, Seat};
use crate::control::inbox::Hook;
use crate::control::{Failure, lock};

/// See the module.
#[derive(Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    frames: VecDeque<Arc<[u8]>>,
    /// A thread is there to write.
    started: bool,
    /// No more frames; the stream is closed after what is queued.
    closing: bool,
    /// Nothing will be written any more.
    ended: bool,
}

impl Outbox {
    /// Begins to write, also what was queued before.
    pub(super) fn start(self: &Arc<Self>, link: Arc<Link>) -> io::Result<()> {
        lock(&self.state).started = true;
        let outbox = Arc::clone(self);
        spawn("control-write", move || {
            // What ails a connection is found out and told by the thread that reads it.
            let _ = outbox.write(&link);
            let _ = link.stream().shutdown(Shutdown::Write);
            lock(&outbox.state).ended = true;
            outbox.changed.notify_all();
        })
    }

    fn write(&self, link: &Link) -> io::Result<()> {
        loop {
            let mut state = lock(&self.state);
            while state.frames.is_empty() {
                if state.closing {
                    return Ok(());
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let frames = std::mem::take(&mut state.frames);
            drop(state);
            for frame in frames {
                link.stream().write_all(&frame)?;
            }
        }
    }

    pub(super) fn send(&self, message: &Message) {
        self.queue(message.frame());
    }

    pub(super) fn queue(&self, frame: Arc<[u8]>) {
        let mut state = lock(&self.state);
        if !state.closing && !state.ended {
            state.frames.push_back(frame);
            self.changed.notify_all();
        }
    }

    /// Whether what was sent is written, or on its way.
    pub(super) fn is_empty(&self) -> bool {
        lock(&self.state).frames.is_empty()
    }

    /// Closes the stream after what is queued.
    pub(super) fn close(&self) {
        lock(&self.state).closing = true;
        self.changed.notify_all();
    }

    /// After `close`: parks until all is written, or until `deadline`.
    pub(super) fn drain(&self, deadline: Instant) {
        let mut state = lock(&self.state);
        while state.started && !state.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Seat for Arc<Outbox> {
    fn deliver(&self, delivery: Arc<Delivery>) {
        let frame = delivery.frame.get_or_init(|| {
            Message::Outcome { key: delivery.key, outcome: delivery.outcome.clone() }.frame()
        });
        self.queue(Arc::clone(frame));
    }

    fn fail(&self, failure: &Failure) -> Vec<Hook> {
        self.send(&Message::Fail(failure.clone()));
        Vec::new()
    }
}
