//! How long a timeline takes on a machine: one compute queue, and one queue per communicator.
//!
//! Ops run one after the other. A collective starts when the compute queue has reached its place and its
//! communicator is free; collectives of different communicators run side by side and share the wire that
//! limits them. A wait stops the compute queue until the collective has ended. The second of two steps is
//! measured, so that what a step leaves under way counts where it is waited for.

use std::collections::VecDeque;

use tisserand_collectives::Queue;

use super::ModelFlops;
use super::machine::{Machine, Roof, Transfer, Wire};
use super::timeline::{Event, Timeline};
use crate::step::Action;

/// A prediction.
#[derive(Clone, PartialEq, Debug)]
pub struct Estimate {
    /// Seconds of a step.
    pub step_s: f64,
    /// Of them: ops that arithmetic limits.
    pub compute_s: f64,
    /// Ops that memory bandwidth limits.
    pub memory_s: f64,
    /// Gaps between ops.
    pub launch_s: f64,
    /// Waiting for collectives, by communicator in the order of [`Queue::ALL`].
    pub exposed_s: [f64; Queue::ALL.len()],
    /// Tokens of all ranks per second, divided by the ranks.
    pub tokens_per_s_per_gpu: f64,
    /// Model FLOP/s over peak FLOP/s, in both conventions of [`ModelFlops`].
    pub mfu: ModelFlops,
    /// What most of the step is spent on.
    pub bound: Bound,
}

/// What limits a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bound {
    /// Arithmetic.
    Compute,
    /// Bandwidth of the GPU's memory.
    Memory,
    /// Waiting for collectives.
    Network,
    /// Starting kernels that are too small.
    Launch,
}

impl Bound {
    /// Its name in plans.
    pub fn name(self) -> &'static str {
        match self {
            Bound::Compute => "compute",
            Bound::Memory => "memory",
            Bound::Network => "network",
            Bound::Launch => "launch",
        }
    }
}

/// Sums so far, in seconds.
#[derive(Clone, Copy, Default)]
struct Tally {
    now: f64,
    compute: f64,
    memory: f64,
    launch: f64,
    exposed: [f64; Queue::ALL.len()],
}

impl Tally {
    /// `self + factor · other`.
    fn plus(mut self, factor: f64, other: &Tally) -> Tally {
        self.now += factor * other.now;
        self.compute += factor * other.compute;
        self.memory += factor * other.memory;
        self.launch += factor * other.launch;
        for (sum, other) in self.exposed.iter_mut().zip(other.exposed) {
            *sum += factor * other;
        }
        self
    }
}

impl Estimate {
    /// Predicts a step. `model_flops` are per token.
    pub fn new(machine: &Machine, timeline: &Timeline, model_flops: &ModelFlops) -> Estimate {
        let step = simulate(machine, timeline);
        let network_s: f64 = step.exposed.iter().sum();
        let shares = [
            (Bound::Compute, step.compute),
            (Bound::Memory, step.memory),
            (Bound::Network, network_s),
            (Bound::Launch, step.launch),
        ];
        let bound =
            shares.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).map_or(Bound::Compute, |most| most.0);
        let tp = timeline.mesh.world_size() / timeline.mesh.dp();
        let tokens_per_rank = (timeline.tokens * timeline.micro_steps) as f64 / tp as f64;
        let tokens_per_s = tokens_per_rank / step.now;
        let mfu = |flops: f64| tokens_per_s * flops / machine.peak_flop_per_s(timeline.compute);
        Estimate {
            step_s: step.now,
            compute_s: step.compute,
            memory_s: step.memory,
            launch_s: step.launch,
            exposed_s: step.exposed,
            tokens_per_s_per_gpu: tokens_per_s,
            mfu: ModelFlops { full: mfu(model_flops.full), causal: mfu(model_flops.causal) },
            bound,
        }
    }

    /// Seconds in which nothing is computed because a collective has not ended.
    pub fn network_s(&self) -> f64 {
        self.exposed_s.iter().sum()
    }
}

/// The sums of one step of the run.
fn simulate(machine: &Machine, timeline: &Timeline) -> Tally {
    let mut tally = Tally::default();
    let mut wires = Wires::default();
    let (mut start, mut end) = (Tally::default(), Tally::default());
    // When the micro-batches of the second step begin.
    let mut loads = Vec::new();
    let mut steps = 0;
    for event in &timeline.events {
        match event {
            Event::Action(Action::Load { .. }) if steps == 1 => loads.push(tally),
            Event::Action(_) => {}
            Event::Op(cost) => {
                let (seconds, roof) = machine.op(cost, timeline.compute);
                match roof {
                    Roof::Compute => tally.compute += seconds,
                    Roof::Memory => tally.memory += seconds,
                }
                tally.launch += machine.calibration.launch_s;
                tally.now += seconds + machine.calibration.launch_s;
            }
            Event::Begin(begun) => {
                wires.advance_to(tally.now);
                wires.begin(begun.queue, machine.transfer(&timeline.mesh, begun));
            }
            Event::Wait(number) => {
                wires.advance_to(tally.now);
                wires.wait_for(*number);
                let (queue, ended) = (wires.queue_of[*number], wires.now);
                tally.exposed[queue as usize] += ended - tally.now;
                tally.now = ended;
            }
            Event::StepEnd => {
                steps += 1;
                (start, end) = (end, tally);
            }
        }
    }
    let recorded = end.plus(-1.0, &start);
    let more = timeline.micro_steps - timeline.recorded_micro_steps;
    match loads[..] {
        [_, second, third, ..] if more > 0 => recorded.plus(more as f64, &third.plus(-1.0, &second)),
        _ => recorded,
    }
}

/// The collectives under way.
#[derive(Default)]
struct Wires {
    now: f64,
    /// By communicator, the one that runs first.
    queues: [VecDeque<Running>; Queue::ALL.len()],
    /// Of every collective so far.
    queue_of: Vec<Queue>,
    ended: Vec<bool>,
}

struct Running {
    number: usize,
    wire: Wire,
    latency_s: f64,
    bytes_s: f64,
}

impl Wires {
    fn begin(&mut self, queue: Queue, transfer: Option<Transfer>) {
        let number = self.queue_of.len();
        self.queue_of.push(queue);
        self.ended.push(transfer.is_none());
        if let Some(Transfer { wire, latency_s, bytes_s }) = transfer {
            self.queues[queue as usize].push_back(Running { number, wire, latency_s, bytes_s });
        }
    }

    fn advance_to(&mut self, time: f64) {
        while self.now < time && self.pass(time) {}
        self.now = self.now.max(time);
    }

    fn wait_for(&mut self, number: usize) {
        while !self.ended[number] && self.pass(f64::INFINITY) {}
    }

    /// Goes on to the next end of a latency or of a collective, at most to `limit`; whether anything runs.
    fn pass(&mut self, limit: f64) -> bool {
        let sharing = |wire| {
            let heads = self.queues.iter().filter_map(VecDeque::front);
            heads.filter(|head| head.wire == wire && head.latency_s <= 0.0).count() as f64
        };
        let (links, nics) = (sharing(Wire::Link), sharing(Wire::Nic));
        let slowed = |head: &Running| if head.wire == Wire::Link { links } else { nics };
        let left = |head: &Running| match head.latency_s > 0.0 {
            true => head.latency_s,
            false => head.bytes_s * slowed(head),
        };
        let heads = self.queues.iter().filter_map(VecDeque::front);
        let Some(next) = heads.map(left).min_by(f64::total_cmp) else { return false };
        let passed = next.min(limit - self.now);
        self.now += passed;
        for queue in &mut self.queues {
            let Some(head) = queue.front_mut() else { continue };
            // What ends now ends exactly: a rest that rounding leaves could never be run down.
            let ends = left(head) <= passed;
            match (head.latency_s > 0.0, ends) {
                (true, true) => head.latency_s = 0.0,
                (true, false) => head.latency_s -= passed,
                (false, true) => {
                    self.ended[head.number] = true;
                    queue.pop_front();
                }
                (false, false) => head.bytes_s -= passed / slowed(head),
            }
        }
        true
    }
}
