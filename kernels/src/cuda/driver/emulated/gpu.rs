//! An emulated GPU: its streams, which are queues, and its fault, which stays.
//!
//! Nothing runs by itself. Work runs on the thread of whoever waits for it: at once on a stream that is early;
//! on one that is late not before the stream is waited for, by the host or by another stream through an event.
//! So a late stream is as far behind as correct programs allow, and an early one as far ahead: a program that
//! lacks a wait reads what is stale or was never written.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::abi::Counters;
use super::host_waits::HostWaitCounter;
use super::settings::{Completion, Settings};
use super::work::Work;
use crate::cuda::driver::refused_in_capture;
use crate::{KernelError, Result};

/// What the handles of one device share.
pub(super) struct Gpu {
    settings: Settings,
    state: Mutex<State>,
    /// A stream has done a piece of work.
    advanced: Condvar,
    host_waits: HostWaitCounter,
}

#[derive(Default)]
struct State {
    streams: HashMap<u64, Stream>,
    num_streams: u64,
    counters: Counters,
    commands: u64,
    fault: Option<String>,
}

/// Work is counted from the stream's beginning: `done` pieces of `queued` have run.
#[derive(Default)]
struct Stream {
    queue: VecDeque<Entry>,
    queued: u64,
    done: u64,
    /// A thread runs the piece after `done`, which has left the queue.
    is_running: bool,
    /// What a capture under way has recorded.
    captured: Option<Vec<Work>>,
}

enum Entry {
    Work(Work),
    Wait(EmulatedEvent),
}

/// The first `count` pieces of a stream's work.
#[derive(Clone, Copy)]
struct Point {
    stream: u64,
    count: u64,
}

/// A point in the work of a stream. What comes before it was queued before whatever waits for it, so that waits never
/// form a circle.
#[derive(Clone)]
pub struct EmulatedEvent {
    gpu: Arc<Gpu>,
    point: Point,
}

/// What is to be done next for a stream to get on.
enum Next {
    /// It is where it should be.
    Nothing,
    /// Another thread runs a piece of its work.
    Await,
    /// Another stream, of any device, must get on first. This one has done so many pieces.
    Reach(EmulatedEvent, u64),
    /// This.
    Run(Work),
}

impl Gpu {
    pub(super) fn new(settings: Settings) -> Self {
        let (state, advanced, host_waits) = (Mutex::default(), Condvar::new(), HostWaitCounter::default());
        Gpu { settings, state, advanced, host_waits }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn host_waits(&self) -> &HostWaitCounter {
        &self.host_waits
    }

    /// The number of a new stream.
    pub(super) fn add_stream(&self) -> u64 {
        let mut state = self.state();
        let stream = state.num_streams;
        state.num_streams += 1;
        state.streams.insert(stream, Stream::default());
        stream
    }

    /// Runs what is left of a stream, which nobody will use again. As on a GPU, a fault stays with the device;
    /// since no call may be left to return it, it is also printed.
    pub(super) fn remove_stream(&self, stream: u64) {
        let has_failed = self.state().fault.is_some();
        if let Err(error) = self.finish(stream)
            && !has_failed
        {
            eprintln!("emulated device: work that nobody waited for failed: {error}");
        }
        self.state().streams.remove(&stream);
    }

    /// Queues work on a stream, and runs it if the stream is early. A stream that records keeps it instead.
    pub(super) fn queue(&self, stream: u64, work: Work) -> Result<()> {
        let mut state = self.state();
        state.check()?;
        if let Some(captured) = &mut state.stream_mut(stream).captured {
            captured.push(work);
            return Ok(());
        }
        state.commands += u64::from(work.is_command());
        drop(state);
        self.push(stream, Entry::Work(work))
    }

    /// From now on a stream records.
    pub(super) fn begin_capture(&self, stream: u64) -> Result<()> {
        let mut state = self.state();
        state.check()?;
        match &mut state.stream_mut(stream).captured {
            Some(_) => Err(refused_in_capture("capture")),
            none => {
                *none = Some(Vec::new());
                Ok(())
            }
        }
    }

    /// What a stream has recorded; it records no longer.
    pub(super) fn end_capture(&self, stream: u64) -> Vec<Work> {
        self.state().stream_mut(stream).captured.take().unwrap_or_default()
    }

    /// Refuses `call` on a stream that records.
    pub(super) fn refuse_in_capture(&self, stream: u64, call: &str) -> Result<()> {
        match self.state().stream_mut(stream).captured {
            Some(_) => Err(refused_in_capture(call)),
            None => Ok(()),
        }
    }

    /// Lets what is queued on `stream` from now on begin after `event`, of this device or another.
    pub(super) fn queue_wait(&self, stream: u64, event: EmulatedEvent) -> Result<()> {
        self.push(stream, Entry::Wait(event))
    }

    fn push(&self, stream: u64, entry: Entry) -> Result<()> {
        let mut state = self.state();
        state.check()?;
        let owner = state.stream_mut(stream);
        owner.queue.push_back(entry);
        owner.queued += 1;
        drop(state);
        if self.is_early(stream) { self.finish(stream) } else { Ok(()) }
    }

    fn is_early(&self, stream: u64) -> bool {
        match self.settings.completion {
            Completion::Early => true,
            Completion::Late => false,
            Completion::Mixed(seed) => (seed >> (stream % 64)) & 1 == 1,
        }
    }

    /// The point behind all that is queued on a stream, as something to wait for.
    pub(super) fn event(self: &Arc<Self>, stream: u64) -> EmulatedEvent {
        EmulatedEvent { gpu: Arc::clone(self), point: self.end(stream) }
    }

    /// Runs all that is queued on a stream; the error is the device's fault.
    pub(super) fn finish(&self, stream: u64) -> Result<()> {
        self.reach(self.end(stream))
    }

    fn end(&self, stream: u64) -> Point {
        let count = self.state().streams.get(&stream).map_or(0, |stream| stream.queued);
        Point { stream, count }
    }

    /// Runs work until `point` is reached.
    fn reach(&self, point: Point) -> Result<()> {
        let mut state = self.state();
        loop {
            state.check()?;
            match state.next(point) {
                Next::Nothing => return Ok(()),
                Next::Await => {
                    state = self.advanced.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                Next::Reach(event, done) => {
                    drop(state);
                    event.gpu.reach(event.point)?;
                    state = self.state();
                    state.pass_wait(point.stream, done);
                }
                Next::Run(work) => {
                    drop(state);
                    let mut counters = Counters::default();
                    let result = work.run(&self.settings, &mut counters);
                    state = self.state();
                    state.end_of_work(point.stream, &counters, &result);
                    self.advanced.notify_all();
                    result?;
                }
            }
        }
    }

    /// Work that was queued so far, captured work not counted.
    pub(super) fn commands(&self) -> u64 {
        self.state().commands
    }

    /// What kernels have done so far.
    pub(super) fn counters(&self) -> Counters {
        self.state().counters
    }

    /// What kernels have done since the last call.
    pub(super) fn take_counters(&self) -> Counters {
        std::mem::take(&mut self.state().counters)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The error of a device that has failed.
    fn check(&self) -> Result<()> {
        match &self.fault {
            Some(fault) => {
                Err(KernelError::Device(format!("the emulated device has failed before: {fault}")))
            }
            None => Ok(()),
        }
    }

    /// A stream that somebody has a handle of.
    fn stream_mut(&mut self, stream: u64) -> &mut Stream {
        self.streams.get_mut(&stream).expect("a stream lives as long as its handles")
    }

    fn next(&mut self, point: Point) -> Next {
        // A stream that is gone has done all its work.
        let Some(stream) = self.streams.get_mut(&point.stream) else { return Next::Nothing };
        if stream.done >= point.count {
            return Next::Nothing;
        }
        if stream.is_running {
            return Next::Await;
        }
        if let Some(Entry::Wait(event)) = stream.queue.front() {
            return Next::Reach(event.clone(), stream.done);
        }
        let Some(Entry::Work(work)) = stream.queue.pop_front() else {
            unreachable!("a point counts what is queued");
        };
        stream.is_running = true;
        Next::Run(work)
    }

    /// Takes away the wait behind `done` pieces of a stream's work, unless another thread has done so.
    fn pass_wait(&mut self, stream: u64, done: u64) {
        if let Some(stream) = self.streams.get_mut(&stream).filter(|stream| stream.done == done) {
            stream.queue.pop_front();
            stream.done += 1;
        }
    }

    fn end_of_work(&mut self, stream: u64, counters: &Counters, result: &Result<()>) {
        self.counters.add(counters);
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.is_running = false;
            stream.done += 1;
        }
        if let Err(error) = result {
            self.fault.get_or_insert_with(|| error.to_string());
        }
    }
}
