//! What each call does with the parts that ranks leave for each other.

use std::sync::Arc;

use tisserand_kernels::ops::elementwise;
use tisserand_kernels::{Block, Device, TensorRef};

use super::group::Group;
use super::mailbox::Letter;
use super::meeting::{Parts, Visit};
use super::queue::Job;
use crate::communicator::{Call, CommError, ReduceOp};
use crate::control::Failure;

/// Carries out a call and hands its block back.
pub(super) fn carry_out<D: Device>(job: Job<D>, device: &D) {
    let Job { group, mut visit, call, block, ready, completion, progress } = job;
    // The others will read the block by queues of their own, so what writes it must have ended, not only be queued.
    let is_ready = device.wait(&ready).and_then(|()| device.synchronize());
    // Time in the queue is not time that a rank is late.
    visit.deadline = group.deadline();
    let result = match (is_ready, call) {
        (Err(error), _) => Err(error.into()),
        (Ok(()), Call::Send { to }) => return send(&group, visit.rank, to, Letter { block, completion }),
        (Ok(()), Call::Recv { from }) => recv(&group, &visit, device, from, block),
        (Ok(()), Call::AllReduce(op)) => reduce(&group, &visit, device, op, Wanted::Everywhere, block),
        (Ok(()), Call::ReduceScatter(op)) => reduce(&group, &visit, device, op, Wanted::Scattered, block),
        (Ok(()), Call::AllGather) => gather(&group, &visit, device, block),
        (Ok(()), Call::AllToAll) => exchange(&group, &visit, device, block),
        (Ok(()), Call::Broadcast { root }) => broadcast(&group, &visit, device, root, block),
    };
    if let Err(error @ CommError::Kernel(_)) = &result {
        // The others would wait for what this rank's device cannot do.
        group.end(Failure::fault(group.member(visit.rank), error.to_string()).into());
    }
    if result.is_ok() {
        progress.end_call(group.axis(), call.kind().name(), visit.sequence);
    }
    completion.complete(result);
}

/// Elements of all ranks that are combined, and written where they belong, before the next: they stay in the
/// second-level cache between the two.
const PIECE: usize = 128 * 1024;

/// Cuts a block into `n` parts; part i ends at element `(i + 1) · len / n`.
fn cut<D: Device>(mut block: Block<D>, n: usize) -> Parts<D> {
    let len = block.len();
    let mut parts: Parts<D> =
        (1..n).rev().map(|i| Some(block.split_off((i as u128 * len as u128 / n as u128) as usize))).collect();
    parts.push(Some(block));
    parts.reverse();
    parts
}

/// Joins what [`cut`] cut.
fn join<D: Device>(parts: Parts<D>) -> Block<D> {
    let mut parts = parts.into_iter().map(|part| part.expect("every part has come back"));
    let mut block = parts.next().expect("there is at least one rank");
    parts.for_each(|part| block.append(part));
    block
}

/// Elements `start .. start + len` of each part.
fn views<D: Device>(parts: &[Option<Block<D>>], start: usize, len: usize) -> Vec<TensorRef<'_, D>> {
    parts.iter().flatten().map(|part| part.range(start, [len])).collect()
}

/// Who has the result of a reduction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Every rank its part.
    Scattered,
    /// Every rank all of it.
    Everywhere,
}

/// Part `rank` of the result is the reduction of that part of all blocks. This rank computes it and, where it is
/// wanted everywhere, writes it into the parts that the others have handed to it, which it has just read.
fn reduce<D: Device>(
    group: &Group<D>,
    visit: &Visit,
    device: &D,
    op: ReduceOp,
    wanted: Wanted,
    block: Block<D>,
) -> Result<Block<D>, CommError> {
    let (me, n) = (visit.rank, group.size());
    let mut parts = cut(block, n);
    let mut own = parts[me].take().expect("just cut");
    let (_, mut others) = group.trade(visit, None, parts)?;
    let piece = match wanted {
        Wanted::Scattered => own.len().max(1),
        Wanted::Everywhere => (PIECE / n).max(1024),
    };
    for start in (0..own.len()).step_by(piece) {
        let len = piece.min(own.len() - start);
        let (before, after) = (views(&others[..me], start, len), views(&others[me + 1..], start, len));
        elementwise::combine(device, op, &before, own.range_mut(start, [len]), &after)?;
        drop((before, after));
        if wanted == Wanted::Everywhere {
            for other in others.iter_mut().flatten() {
                device.copy(own.range(start, [len]), other.range_mut(start, [len]))?;
            }
        }
    }
    device.synchronize()?;
    let (_, mut parts) = group.settle(visit, others)?;
    parts[me] = Some(own);
    Ok(join(parts))
}

/// Every part comes from its rank.
fn gather<D: Device>(
    group: &Group<D>,
    visit: &Visit,
    device: &D,
    block: Block<D>,
) -> Result<Block<D>, CommError> {
    let (me, n) = (visit.rank, group.size());
    let mut parts = cut(block, n);
    let (lent, _) = group.trade(visit, parts[me].take().map(Arc::new), Vec::new())?;
    // Each rank begins with its neighbour, so that not all read the same part at once.
    for other in (me + 1..n).chain(0..me) {
        let (from, to) = (lent[other].as_ref(), parts[other].as_mut());
        let (from, to) = from.zip(to).expect("every rank lends a part and has room for it");
        device.copy(from.view([from.len()]), to.view_mut([from.len()]))?;
    }
    device.synchronize()?;
    drop(lent);
    parts[me] = group.settle(visit, Vec::new())?.0;
    Ok(join(parts))
}

/// Slice i of the second half becomes slice `rank` of the first half of rank i.
fn exchange<D: Device>(
    group: &Group<D>,
    visit: &Visit,
    device: &D,
    mut block: Block<D>,
) -> Result<Block<D>, CommError> {
    let (me, n, half) = (visit.rank, group.size(), block.len() / 2);
    let slice = half / n;
    let mut received = block.split_off(half);
    let (lent, _) = group.trade(visit, Some(Arc::new(block)), Vec::new())?;
    for other in (me..n).chain(0..me) {
        let from = lent[other].as_ref().expect("every rank lends its block");
        device.copy(from.range(me * slice, [slice]), received.range_mut(other * slice, [slice]))?;
    }
    device.synchronize()?;
    drop(lent);
    let mut block = group.settle(visit, Vec::new())?.0.expect("what was lent comes back");
    block.append(received);
    Ok(block)
}

/// The block of rank `root`, everywhere. Of the n - 1 copies every rank makes its share: the root fills the last
/// n-th of each.
fn broadcast<D: Device>(
    group: &Group<D>,
    visit: &Visit,
    device: &D,
    root: usize,
    mut block: Block<D>,
) -> Result<Block<D>, CommError> {
    let (n, len) = (group.size(), block.len());
    let first = len - len / n;
    if visit.rank == root {
        let (lent, mut tails) = group.trade(visit, Some(Arc::new(block)), Vec::new())?;
        let from = lent[root].as_ref().expect("just lent");
        for tail in tails.iter_mut().flatten() {
            let len = tail.len();
            device.copy(from.range(first, [len]), tail.view_mut([len]))?;
        }
        device.synchronize()?;
        drop(lent);
        return Ok(group.settle(visit, tails)?.0.expect("what was lent comes back"));
    }
    let mut parts: Parts<D> = (0..n).map(|_| None).collect();
    parts[root] = Some(block.split_off(first));
    let (lent, _) = group.trade(visit, None, parts)?;
    let from = lent[root].as_ref().expect("the root lends its block");
    device.copy(from.range(0, [first]), block.view_mut([first]))?;
    device.synchronize()?;
    drop(lent);
    let (_, mut parts) = group.settle(visit, Vec::new())?;
    block.append(parts[root].take().expect("the root gives back what it has filled"));
    Ok(block)
}

/// Leaves the letter; its receiver completes the call.
fn send<D: Device>(group: &Group<D>, from: usize, to: usize, letter: Letter<D>) {
    let mut state = group.state();
    match state.error() {
        Some(error) => {
            drop(state);
            letter.completion.complete(Err(error));
        }
        None => {
            state.mail.put(from, to, letter);
            drop(state);
            group.notify();
        }
    }
}

/// Takes the oldest letter of `from`, copies it and gives it back to its sender.
fn recv<D: Device>(
    group: &Group<D>,
    visit: &Visit,
    device: &D,
    from: usize,
    mut block: Block<D>,
) -> Result<Block<D>, CommError> {
    let mut state = group.state();
    let mut in_time = true;
    let letter = loop {
        if let Some(error) = state.error() {
            return Err(error);
        }
        if let Some(letter) = state.mail.take(from, visit.rank) {
            break letter;
        }
        if !in_time {
            drop(state);
            let error = group.late_ranks(visit.rank, &visit.subject, visit.sequence, vec![from]);
            return Err(group.end(error));
        }
        (state, in_time) = group.park(state, visit.deadline);
    };
    drop(state);
    let Letter { block: sent, completion } = letter;
    if (sent.len(), sent.dtype()) != (block.len(), block.dtype()) {
        let error = CommError::Mismatch(format!(
            "{}: rank {} sends {} {}, rank {} receives {} {}",
            group.axis(),
            group.member(from),
            sent.len(),
            sent.dtype(),
            group.member(visit.rank),
            block.len(),
            block.dtype()
        ));
        completion.complete(Err(error.clone()));
        return Err(group.end(error));
    }
    let len = block.len();
    let copied = device.copy(sent.view([len]), block.view_mut([len])).and_then(|()| device.synchronize());
    completion.complete(Ok(sent));
    copied?;
    Ok(block)
}
