//! What every rank was doing last, as far as it is known here: the source of the table after a failure.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::table::{FAILED, LEFT, RUNNING};
use super::{Activity, Failure, Progress, RankReport, lock};

/// One entry a rank.
pub(super) struct Board {
    /// Ranks of this process: read when the failure is known, not when it is reported, since by then their
    /// threads have unwound.
    here: Vec<(usize, Progress)>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    entries: Vec<Entry>,
    /// When the failure became known.
    closed: Option<Instant>,
    told: bool,
    version: u64,
}

#[derive(Clone)]
struct Entry {
    host: String,
    activity: Activity,
    noted: Instant,
    state: String,
    /// Nothing newer will come: the rank has sent its last note, is of this process, or has ended.
    settled: bool,
    /// The board's version when this entry last changed.
    version: u64,
}

impl Board {
    pub(super) fn new(world_size: usize, host: &str, here: Vec<(usize, Progress)>) -> Self {
        let entry = Entry {
            host: "-".to_owned(),
            activity: Activity::default(),
            noted: Instant::now(),
            state: RUNNING.to_owned(),
            settled: false,
            version: 0,
        };
        let mut entries = vec![entry; world_size];
        for (rank, _) in &here {
            entries[*rank].host = host.to_owned();
        }
        let state = State { entries, closed: None, told: false, version: 0 };
        Board { here, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn change(&self, rank: usize, change: impl FnOnce(&mut Entry)) {
        let mut state = lock(&self.state);
        state.change(rank, change);
        self.changed.notify_all();
    }

    /// The machine of `rank`.
    pub(super) fn seat(&self, rank: usize, host: &str) {
        self.change(rank, |entry| entry.host = host.to_owned());
    }

    /// What `rank` did `age_s` ago.
    pub(super) fn note(&self, rank: usize, activity: Activity, age_s: f64) {
        self.change(rank, |entry| entry.note(activity, before(age_s)));
    }

    /// What `rank` was doing when it heard of the failure.
    pub(super) fn last(&self, rank: usize, activity: Activity, age_s: f64) {
        self.change(rank, |entry| {
            entry.note(activity, before(age_s));
            entry.settled = true;
        });
    }

    /// `rank` has died. That a rank closes its connection after it has answered is the end of its process,
    /// not its death.
    pub(super) fn gone(&self, rank: usize, cause: &str) {
        self.change(rank, |entry| {
            if !entry.settled {
                entry.state = cause.to_owned();
                entry.settled = true;
            }
        });
    }

    /// `rank` has ended in good order.
    pub(super) fn left(&self, rank: usize) {
        self.gone(rank, LEFT);
    }

    /// The failure is known: ranks of this process are read, and the one that failed is marked.
    pub(super) fn close(&self, failure: &Failure) {
        self.read_here();
        let mut state = lock(&self.state);
        state.closed.get_or_insert_with(Instant::now);
        for (rank, _) in &self.here {
            state.change(*rank, |entry| entry.settled = true);
        }
        if failure.rank < state.entries.len() {
            state.change(failure.rank, |entry| {
                if entry.state == RUNNING {
                    entry.state = format!("{FAILED}{}", failure.cause);
                }
            });
        }
        self.changed.notify_all();
    }

    fn read_here(&self) {
        for (rank, progress) in &self.here {
            let (activity, noted) = progress.snapshot();
            let mut state = lock(&self.state);
            let entry = &state.entries[*rank];
            if !entry.settled && entry.noted != noted {
                state.change(*rank, |entry| entry.note(activity, noted));
            }
        }
    }

    /// The reports of all ranks after a failure, once. Waits up to `patience` for what living ranks were
    /// doing last.
    pub(super) fn take(&self, patience: Duration) -> Option<Vec<RankReport>> {
        let deadline = Instant::now() + patience;
        let mut state = lock(&self.state);
        let closed = state.closed?;
        if std::mem::replace(&mut state.told, true) {
            return None;
        }
        while !state.entries.iter().all(|entry| entry.settled) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let woken = self.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        Some(state.entries.iter().enumerate().map(|(rank, entry)| entry.report(rank, closed)).collect())
    }

    /// Entries that changed since `version`, and the version to ask with next time.
    pub(super) fn changes(&self, version: u64) -> (Vec<RankReport>, u64) {
        self.read_here();
        let now = Instant::now();
        let state = lock(&self.state);
        let changed = state.entries.iter().enumerate().filter(|(_, entry)| entry.version > version);
        (changed.map(|(rank, entry)| entry.report(rank, now)).collect(), state.version)
    }

    /// Takes over what another board knows.
    pub(super) fn merge(&self, reports: Vec<RankReport>) {
        let mut state = lock(&self.state);
        for report in
            reports.into_iter().filter(|report| self.here.iter().all(|(rank, _)| *rank != report.rank))
        {
            if report.rank < state.entries.len() {
                state.change(report.rank, |entry| {
                    entry.note(report.activity, before(report.age_s));
                    (entry.host, entry.state) = (report.host, report.state);
                });
            }
        }
    }
}

impl State {
    fn change(&mut self, rank: usize, change: impl FnOnce(&mut Entry)) {
        self.version += 1;
        self.entries[rank].version = self.version;
        change(&mut self.entries[rank]);
    }
}

impl Entry {
    fn note(&mut self, activity: Activity, noted: Instant) {
        (self.activity, self.noted) = (activity, noted);
    }

    fn report(&self, rank: usize, now: Instant) -> RankReport {
        RankReport {
            rank,
            host: self.host.clone(),
            activity: self.activity.clone(),
            age_s: now.saturating_duration_since(self.noted).as_secs_f64(),
            state: self.state.clone(),
        }
    }
}

/// The time `age_s` ago. An age that came over the network may be anything.
fn before(age_s: f64) -> Instant {
    let now = Instant::now();
    Duration::try_from_secs_f64(age_s).ok().and_then(|age| now.checked_sub(age)).unwrap_or(now)
}
