//! All-reduces inside of a machine and between machines, by the communicators that a run uses: how long a short one
//! takes, how many bytes per second a long one moves, and whether the sums are right.

use std::time::Instant;

use tisserand_collectives::{Call, Channel, Collective, Communicator, ControlPlane, ReduceOp};
use tisserand_kernels::{Block, Class, Context, DType, Device};
use tisserand_runtime::{Error, Result};

use super::finding::{Better, Finding};
use super::hosts::Hosts;
use super::measure::rounds;

const CHECK: &str = "all_reduce";

/// Below this, time is latency.
const SHORT_BYTES: usize = 4 << 10;
const MIDDLE_BYTES: usize = 1 << 20;

/// Some ranks among which sums are taken.
struct Group<'a, D: Device> {
    name: &'static str,
    ranks: &'a mut dyn Communicator<D>,
    /// Whether every machine has one of its own, by which they may be compared.
    of_a_host: bool,
}

/// Measures all groups that there are for about `seconds`. `warm` is called when every group has worked once.
pub(super) fn check<D: Device>(
    control: &dyn ControlPlane,
    hosts: &Hosts,
    device: &D,
    world: &mut dyn Communicator<D>,
    seconds: f64,
    warm: impl FnOnce(),
) -> Result<Vec<Finding>> {
    let rank = control.rank();
    let long_bytes = if device.caps().name == "cuda" { 256 << 20 } else { 64 << 20 };
    // Some communicators take as much again.
    let ctx = Context::new(device.clone(), 2 * long_bytes + (1 << 20))?;
    let mut node = world.split("node", hosts.of_rank(rank), rank)?;
    let mut across = world.split("across", hosts.local_rank(rank), rank)?;
    let mut groups = [
        Group { name: "inside a node", ranks: node.as_mut(), of_a_host: true },
        Group { name: "across nodes", ranks: across.as_mut(), of_a_host: false },
    ];
    let mut present = Vec::new();
    for group in &mut groups {
        // All ranks do the same, also those that have nobody beside them.
        if control.max(Channel::Step, group.ranks.size() as u64)? > 1 {
            prove(&ctx, group)?;
            present.push(group);
        }
    }
    warm();
    let share = seconds / (3 * present.len().max(1)) as f64;
    let mut findings = Vec::new();
    for group in present {
        for bytes in [SHORT_BYTES, MIDDLE_BYTES, long_bytes] {
            let taken = measure(control, &ctx, group.ranks, bytes, share)?;
            findings.extend(rows(group, bytes, &taken));
        }
    }
    Ok(findings)
}

/// Sums that are known: whatever moves bytes, moves the right ones.
fn prove<D: Device>(ctx: &Context<D>, group: &mut Group<'_, D>) -> Result<()> {
    let len = MIDDLE_BYTES / 4;
    let mut block = ctx.arena.block(Class::Communication, DType::F32, len)?;
    let mine: Vec<f32> = (0..len).map(|i| (i % 1000 + group.ranks.rank()) as f32).collect();
    ctx.device.upload(&mine, block.view_mut([len]))?;
    let block = group.ranks.run(Call::AllReduce(ReduceOp::Sum), block)?;
    let mut sums = vec![0.0_f32; len];
    ctx.device.download(block.view([len]), &mut sums)?;
    let n = group.ranks.size();
    let due = |i: usize| (n * (i % 1000) + n * (n - 1) / 2) as f32;
    match sums.iter().enumerate().find(|(i, sum)| **sum != due(*i)) {
        None => Ok(()),
        Some((i, sum)) => Err(Error::fault(format!(
            "an all-reduce over {n} ranks {} gives {sum} at element {i}, where {} is due; hint: another version of the \
             communication library",
            group.name,
            due(i)
        ))),
    }
}

/// Seconds of one all-reduce in each round: of a series of calls, one behind the other.
fn measure<D: Device>(
    control: &dyn ControlPlane,
    ctx: &Context<D>,
    ranks: &mut dyn Communicator<D>,
    bytes: usize,
    seconds: f64,
) -> Result<Vec<f64>> {
    let len = bytes / 4;
    let mut block = ctx.arena.block(Class::Communication, DType::F32, len)?;
    ctx.device.zero(block.view_mut([len]))?;
    let series = |ranks: &mut dyn Communicator<D>, mut block: Block<D>, calls: u64| -> Result<_> {
        ctx.device.synchronize()?;
        ranks.barrier()?;
        let begun = Instant::now();
        for _ in 0..calls {
            block = ranks.run(Call::AllReduce(ReduceOp::Sum), block)?;
        }
        ctx.device.synchronize()?;
        Ok((begun.elapsed().as_secs_f64().max(1e-9) / calls as f64, block))
    };
    let (first, block) = series(ranks, block, 1)?;
    let slowest = control.max(Channel::Step, (first * 1e9) as u64)? as f64 / 1e9;
    let (mut block, mut all) = (Some(block), Vec::new());
    rounds(control, seconds, |share| {
        let calls = (share / slowest.max(1e-7)).clamp(1.0, 1000.0) as u64;
        let (taken, back) = series(ranks, block.take().expect("it comes back from every round"), calls)?;
        block = Some(back);
        all.push(taken);
        Ok(())
    })?;
    Ok(all)
}

fn rows<D: Device>(group: &Group<'_, D>, bytes: usize, taken: &[f64]) -> Vec<Finding> {
    let figure = |name: String, of_round: &dyn Fn(f64) -> f64, unit: &str, better: Better| {
        let rounds = taken.iter().map(|taken| of_round(*taken)).collect();
        let figure = Finding::figure(CHECK, &name, rounds, unit, better);
        if group.of_a_host { figure } else { Finding { better: None, ..figure } }
    };
    let n = group.ranks.size();
    if n == 1 {
        return Vec::new();
    }
    if bytes == SHORT_BYTES {
        return vec![figure(format!("{}, 4 KiB", group.name), &|taken| 1e6 * taken, "us", Better::Lower)];
    }
    let size = format!("{}, {} MiB", group.name, bytes >> 20);
    let rate = |taken: f64| bytes as f64 / taken / 1e9;
    let bus = |taken: f64| rate(taken) * Collective::AllReduce.sent_per_payload(n);
    vec![
        figure(format!("{size}, algorithm"), &rate, "GB/s", Better::Higher),
        figure(format!("{size}, bus"), &bus, "GB/s", Better::Higher),
    ]
}
