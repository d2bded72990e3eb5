//! What each call does with the parts that ranks leave for each other.

use std::sync::Arc;

use tisserand_kernels::ops::elementwise;
use tisserand_kernels::{Block, Device, TensorRef};

use super::group::{Group, Visit};
use super::mailbox::Letter;
use super::note_end;
use super::queue::Job;
use crate::communicator::{Call, CommError, ReduceOp};
use crate::control::Failure;

/// Carries out a call and hands its block back.
pub(super) fn carry_out<D: Device>(job: Job<D>, device: &D) {
    let Job { group, mut visit, call, block, completion, progress } = job;
    // Time in the queue is not time that a rank is late.
    visit.deadline = group.deadline();
    let n = group.size();
    let result = match call {
        Call::Send { to } => return send(&group, visit.rank, to, Letter { block, completion }),
        Call::Recv { from } => recv(&group, &visit, device, from, block),
        Call::AllReduce(op) => reduce(&group, &visit, device, op, block).and_then(|block| {
            let visit = Visit { meeting: visit.meeting + 1, ..visit };
            gather(&group, &visit, device, block)
        }),
        Call::ReduceScatter(op) => reduce(&group, &visit, device, op, block),
        Call::AllGather => gather(&group, &visit, device, block),
        Call::AllToAll => exchange(&group, &visit, device, n, block),
        Call::Broadcast { root } => broadcast(&group, &visit, device, root, block),
    };
    if let Err(error @ CommError::Kernel(_)) = &result {
        // The others would wait for what this rank's device cannot do.
        group.end(Failure::fault(group.member(visit.rank), error.to_string()).into());
    }
    if result.is_ok() {
        note_end(&progress, &group, visit.sequence);
    }
    completion.complete(result);
}

/// Cuts a block into `n` parts; part i ends at element `(i + 1) · len / n`.
fn cut<D: Device>(mut block: Block<D>, n: usize) -> Vec<Option<Block<D>>> {
    let len = block.len();
    let mut parts: Vec<Option<Block<D>>> =
        (1..n).rev().map(|i| Some(block.split_off((i as u128 * len as u128 / n as u128) as usize))).collect();
    parts.push(Some(block));
    parts.reverse();
    parts
}

/// Joins what [`cut`] cut.
fn join<D: Device>(parts: Vec<Option<Block<D>>>) -> Block<D> {
    let mut parts = parts.into_iter().map(|part| part.expect("every part has come back"));
    let mut block = parts.next().expect("there is at least one rank");
    parts.for_each(|part| block.append(part));
    block
}

fn views<D: Device>(parts: &[Option<Block<D>>]) -> Vec<TensorRef<'_, D>> {
    parts.iter().flatten().map(|part| part.view([part.len()])).collect()
}

/// Part `rank` of the result is the reduction of that part of all blocks.
fn reduce<D: Device>(
    group: &Group<D>,
    visit: &Visit,
    device: &D,
    op: ReduceOp,
    block: Block<D>,
) -> Result<Block<D>, CommError> {
    let me = visit.rank;
    let mut parts = cut(block, group.size());
    let mut own = parts[me].take().expect("just cut");
    let others = group.hand(visit, parts)?;
    let (before, after) = (views(&others[..me]), views(&others[me + 1..]));
    let len = own.len();
    elementwise::combine(device, op, &before, own.view_mut([len]), &after)?;
    device.synchronize()?;
    drop((before, after));
    let mut parts = group.give_back(visit, others)?;
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
    let lent = group.lend(visit, parts[me].take().map(Arc::new))?;
    // Each rank begins with its neighbour, so that not all read the same part at once.
    for other in (me + 1..n).chain(0..me) {
        let (from, to) = (lent[other].as_ref(), parts[other].as_mut());
        let (from, to) = from.zip(to).expect("every rank lends a part and has room for it");
        device.copy(from.view([from.len()]), to.view_mut([from.len()]))?;
    }
    device.synchronize()?;
    drop(lent);
    parts[me] = group.have_read(visit)?;
    Ok(join(parts))
}

/// Slice i of the second half becomes slice `rank` of the first half of rank i.
fn exchange<D: Device>(
    group: &Group<D>,
    visit: &Visit,
    device: &D,
    n: usize,
    mut block: Block<D>,
) -> Result<Block<D>, CommError> {
    let (me, half) = (visit.rank, block.len() / 2);
    let slice = half / n;
    let mut received = block.split_off(half);
    let lent = group.lend(visit, Some(Arc::new(block)))?;
    for other in (me..n).chain(0..me) {
        let from = lent[other].as_ref().expect("every rank lends its block");
        device.copy(from.range(me * slice, [slice]), received.range_mut(other * slice, [slice]))?;
    }
    device.synchronize()?;
    drop(lent);
    let mut block = group.have_read(visit)?.expect("what was lent comes back");
    block.append(received);
    Ok(block)
}

/// The block of rank `root`, everywhere.
fn broadcast<D: Device>(
    group: &Group<D>,
    visit: &Visit,
    device: &D,
    root: usize,
    mut block: Block<D>,
) -> Result<Block<D>, CommError> {
    if visit.rank == root {
        group.lend(visit, Some(Arc::new(block)))?;
        return Ok(group.have_read(visit)?.expect("what was lent comes back"));
    }
    let lent = group.lend(visit, None)?;
    let len = block.len();
    let from = lent[root].as_ref().expect("the root lends its block");
    device.copy(from.view([len]), block.view_mut([len]))?;
    device.synchronize()?;
    drop(lent);
    group.have_read(visit)?;
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
