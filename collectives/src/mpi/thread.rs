//! The thread that owns MPI: it takes jobs, looks after those of every communicator in turn, and sleeps
//! briefly when nothing moves.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tisserand_kernels::Cpu;

use super::exchange::Poll;
use super::ffi::{Comm, Environment, MpiError};
use super::job::{Job, Member, Site, Split};
use super::orders::{News, Orders, Wait};
use super::running::Running;
use crate::{CommError, Failure, Progress};

/// How long the thread looks again at once after something has moved: what follows mostly comes soon.
const SPIN: Duration = Duration::from_micros(20);

/// Bounds of the naps after that. They grow with the time that nothing has moved.
const NAP: (Duration, Duration) = (Duration::from_micros(20), Duration::from_micros(200));

/// What the thread is started with.
pub(super) struct Start {
    pub(super) device: Cpu,
    pub(super) progress: Progress,
    pub(super) timeout: Duration,
}

/// One communicator: its jobs begin in order.
struct Line {
    site: Site,
    queue: VecDeque<Job>,
    running: Option<Running>,
    /// Sends, for which later jobs do not wait. Of several to one rank only the first is looked after: they
    /// arrive in order.
    aside: Vec<Running>,
    /// Ends every later job.
    failed: Option<CommError>,
    /// Whether messages were under way when it failed.
    leaks: bool,
}

/// Serves until told to end. `started` gets the world communicator.
pub(super) fn run(orders: &Orders, start: &Start, started: impl FnOnce(Result<Member, CommError>)) {
    let world = Environment::start().and_then(|environment| {
        let (line, member) = Line::new(environment.world()?, 0, start)?;
        Ok((environment, line, member))
    });
    let (environment, line, member) = match world {
        Ok(world) => world,
        Err(error) => return started(Err(CommError::Kernel(format!("cannot start MPI: {error}")))),
    };
    started(Ok(member));
    let mut lines = vec![line];
    if serve(orders, start, &mut lines) {
        // The other processes have their own reasons to complain.
        let _ = environment.finalize();
    }
}

/// Returns whether MPI may be finalised.
fn serve(orders: &Orders, start: &Start, lines: &mut Vec<Line>) -> bool {
    let mut still_since = Instant::now();
    let mut aborted = false;
    loop {
        let wait = if lines.iter().all(Line::is_idle) {
            Wait::ForNews
        } else {
            let still = still_since.elapsed();
            if still < SPIN { Wait::Not } else { Wait::AtMost((still / 8).clamp(NAP.0, NAP.1)) }
        };
        let News { jobs, failure, end } = orders.take(wait);
        let mut moved = !jobs.is_empty();
        for (line, job) in jobs {
            lines[line].queue.push_back(job);
        }
        if let Some(failure) = failure {
            aborted = true;
            for line in lines.iter_mut() {
                line.fail(&failure);
            }
        }
        if end {
            let clean = !aborted && lines.iter().all(|line| line.is_idle() && !line.leaks);
            let rank = lines[0].site.rank;
            let error = CommError::Failed(Failure::fault(rank, "the communicators were dropped"));
            lines.iter_mut().for_each(|line| line.fail(&error));
            return clean;
        }
        for i in 0..lines.len() {
            let splits;
            (splits, moved) = lines[i].advance(moved);
            for Split { color, key, reply } in splits {
                let index = lines.len();
                let comm = lines[i].site.comm.split(color, key);
                let answer = match comm.and_then(|comm| Line::new(comm, index, start)) {
                    Ok((line, member)) => {
                        lines.push(line);
                        Ok(member)
                    }
                    Err(error) => Err(lines[i].explain(&error)),
                };
                // Who asked may be gone.
                let _ = reply.send(answer);
            }
        }
        if moved {
            still_since = Instant::now();
        } else {
            std::thread::yield_now();
        }
    }
}

impl Line {
    fn new(comm: Comm, index: usize, start: &Start) -> Result<(Self, Member), MpiError> {
        let (rank, size) = (comm.rank()?, comm.size()?);
        let site = Site {
            comm,
            rank,
            size,
            world_ranks: comm.world_ranks()?,
            device: start.device.clone(),
            progress: start.progress.clone(),
            timeout: start.timeout,
        };
        let (queue, aside) = (VecDeque::new(), Vec::new());
        let line = Line { site, queue, running: None, aside, failed: None, leaks: false };
        Ok((line, Member { line: index, rank, size }))
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.running.is_none() && self.aside.is_empty()
    }

    /// Looks after every job that has begun, and begins those whose turn it is. Returns the splits that are
    /// left to do, and whether something `moved`, here or before.
    fn advance(&mut self, mut moved: bool) -> (Vec<Split>, bool) {
        let mut splits = Vec::new();
        if let Err(error) = self.try_advance(&mut splits, &mut moved) {
            self.fail(&error);
        }
        (splits, moved)
    }

    fn try_advance(&mut self, splits: &mut Vec<Split>, moved: &mut bool) -> Result<(), CommError> {
        let mut i = 0;
        while i < self.aside.len() {
            let (earlier, rest) = self.aside.split_at_mut(i);
            let receiver = rest[0].receiver();
            if earlier.iter().any(|send| send.receiver() == receiver) {
                i += 1;
                continue;
            }
            match rest[0].step(&self.site)? {
                Poll::Ended => drop(self.aside.remove(i).finish(&self.site)),
                poll => {
                    *moved |= poll != Poll::Waiting;
                    i += 1;
                }
            }
        }
        loop {
            if let Some(running) = &mut self.running {
                match running.step(&self.site)? {
                    Poll::Ended => splits.extend(self.running.take().and_then(|job| job.finish(&self.site))),
                    poll => {
                        *moved |= poll != Poll::Waiting;
                        return Ok(());
                    }
                }
            }
            let Some(job) = self.queue.pop_front() else { return Ok(()) };
            *moved = true;
            if let Some(error) = &self.failed {
                job.fail(error.clone());
                continue;
            }
            let running = Running::new(&self.site, job);
            if running.receiver().is_some() {
                self.aside.push(running);
            } else {
                self.running = Some(running);
            }
        }
    }

    /// Ends every job, begun or not, and those to come.
    fn fail(&mut self, error: &CommError) {
        let error = self.failed.get_or_insert_with(|| error.clone()).clone();
        for job in self.aside.drain(..).chain(self.running.take()) {
            self.leaks |= job.has_messages_under_way();
            job.fail(error.clone());
        }
        self.queue.drain(..).for_each(|job| job.fail(error.clone()));
    }

    fn explain(&self, error: &MpiError) -> CommError {
        CommError::Failed(Failure::fault(self.site.world_ranks[self.site.rank], error.to_string()))
    }
}
