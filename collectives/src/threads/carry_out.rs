//! What each call does with the parts that ranks leave for each other.

use std::sync::Arc;

use tisserand_kernels::ops::elementwise;
use tisserand_kernels::{Block, Device, TensorRef};

use super::mailbox::Letter;
use super::meeting::Parts;
use super::place::Place;
use super::queue::Job;
use crate::communicator::{Call, CommError, ReduceOp};
use crate::control::Failure;
use crate::pending::Completion;

/// Carries out a call and hands its block back, as soon as all of it stands in the queue of `device`.
pub(super) fn carry_out<D: Device>(job: Job<D>, device: &D) {
    let Job { group, mut visit, call, block, ready, mut completion, progress } = job;
    // What is sent is read by the receiver's device, and this one need not stand behind it.
    let is_sent = matches!(call, Call::Send { .. });
    let is_ready = if is_sent { Ok(()) } else { device.wait(&ready) };
    let begun = is_ready.and_then(|()| completion.begin(device));
    // Time in the queue is not time that a rank is late.
    visit.deadline = group.deadline();
    let place = Place { group: &group, visit, device, ready };
    let result = match (begun, call) {
        (Err(error), _) => Err(error.into()),
        (Ok(()), Call::Send { to }) => return send(place, to, block, completion),
        (Ok(()), Call::Recv { from }) => recv(&place, from, block),
        (Ok(()), Call::AllReduce(op)) => reduce(&place, op, Wanted::Everywhere, block),
        (Ok(()), Call::ReduceScatter(op)) => reduce(&place, op, Wanted::Scattered, block),
        (Ok(()), Call::AllGather) => gather(&place, block),
        (Ok(()), Call::AllToAll) => exchange(&place, block),
        (Ok(()), Call::Broadcast { root }) => broadcast(&place, root, block),
    };
    match result {
        Ok(block) => {
            progress.end_call(group.axis(), call.kind().name(), visit.sequence);
            completion.complete(device, block);
        }
        Err(error) => {
            if let CommError::Kernel(_) = &error {
                // The others would wait for what this rank's device cannot do.
                group.end(Failure::fault(group.member(visit.rank), error.to_string()).into());
            }
            completion.fail(error);
        }
    }
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
    place: &Place<'_, D>,
    op: ReduceOp,
    wanted: Wanted,
    block: Block<D>,
) -> Result<Block<D>, CommError> {
    let (me, n, device) = (place.rank(), place.size(), place.device);
    let mut parts = cut(block, n);
    let mut own = parts[me].take().expect("just cut");
    let mut held = place.trade(None, parts)?;
    let others = &mut held.handed;
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
    let (_, mut parts) = place.settle(held)?;
    parts[me] = Some(own);
    Ok(join(parts))
}

/// Every part comes from its rank.
fn gather<D: Device>(place: &Place<'_, D>, block: Block<D>) -> Result<Block<D>, CommError> {
    let (me, n) = (place.rank(), place.size());
    let mut parts = cut(block, n);
    let held = place.trade(parts[me].take().map(Arc::new), Vec::new())?;
    // Each rank begins with its neighbour, so that not all read the same part at once.
    for other in (me + 1..n).chain(0..me) {
        let (from, to) = (held.lent[other].as_ref(), parts[other].as_mut());
        let (from, to) = from.zip(to).expect("every rank lends a part and has room for it");
        place.device.copy(from.view([from.len()]), to.view_mut([from.len()]))?;
    }
    parts[me] = place.settle(held)?.0;
    Ok(join(parts))
}

/// Slice i of the second half becomes slice `rank` of the first half of rank i.
fn exchange<D: Device>(place: &Place<'_, D>, mut block: Block<D>) -> Result<Block<D>, CommError> {
    let (me, n, half) = (place.rank(), place.size(), block.len() / 2);
    let slice = half / n;
    let mut received = block.split_off(half);
    let held = place.trade(Some(Arc::new(block)), Vec::new())?;
    for other in (me..n).chain(0..me) {
        let from = held.lent[other].as_ref().expect("every rank lends its block");
        place.device.copy(from.range(me * slice, [slice]), received.range_mut(other * slice, [slice]))?;
    }
    let mut block = place.settle(held)?.0.expect("what was lent comes back");
    block.append(received);
    Ok(block)
}

/// The block of rank `root`, everywhere. Of the n - 1 copies every rank makes its share: the root fills the last
/// n-th of each.
fn broadcast<D: Device>(
    place: &Place<'_, D>,
    root: usize,
    mut block: Block<D>,
) -> Result<Block<D>, CommError> {
    let (n, len) = (place.size(), block.len());
    let first = len - len / n;
    if place.rank() == root {
        let mut held = place.trade(Some(Arc::new(block)), Vec::new())?;
        let from = held.lent[root].as_ref().expect("just lent");
        for tail in held.handed.iter_mut().flatten() {
            let len = tail.len();
            place.device.copy(from.range(first, [len]), tail.view_mut([len]))?;
        }
        return Ok(place.settle(held)?.0.expect("what was lent comes back"));
    }
    let mut parts: Parts<D> = (0..n).map(|_| None).collect();
    parts[root] = Some(block.split_off(first));
    let held = place.trade(None, parts)?;
    let from = held.lent[root].as_ref().expect("the root lends its block");
    place.device.copy(from.range(0, [first]), block.view_mut([first]))?;
    let (_, mut parts) = place.settle(held)?;
    block.append(parts[root].take().expect("the root gives back what it has filled"));
    Ok(block)
}

/// Leaves the letter; its receiver completes the call.
fn send<D: Device>(place: Place<'_, D>, to: usize, block: Block<D>, completion: Completion<D>) {
    let Place { group, visit, ready, .. } = place;
    let mut state = group.state();
    match state.error() {
        Some(error) => {
            drop(state);
            completion.fail(error);
        }
        None => {
            state.mail.put(visit.rank, to, Letter { block, ready, completion });
            drop(state);
            group.notify();
        }
    }
}

/// Takes the oldest letter of `from`, copies it and gives it back to its sender.
fn recv<D: Device>(place: &Place<'_, D>, from: usize, mut block: Block<D>) -> Result<Block<D>, CommError> {
    let Place { group, visit, device, .. } = place;
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
    let Letter { block: sent, ready, completion } = letter;
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
        completion.fail(error.clone());
        return Err(group.end(error));
    }
    let len = block.len();
    let copied = device.wait(&ready).and_then(|()| device.copy(sent.view([len]), block.view_mut([len])));
    completion.complete(device, sent);
    copied?;
    Ok(block)
}
