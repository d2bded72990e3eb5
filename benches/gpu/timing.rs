//! How long an op takes on the GPU.

use std::time::Instant;

use tisserand_kernels::{Context, Device, Result};

use super::inputs::Run;

/// How long is measured.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    /// Of one row of calls, which is timed from its first call to the end of the last.
    pub(crate) row_s: f64,
    /// Rows, of which the median counts.
    pub(crate) rows: usize,
}

/// Seconds of one call.
#[derive(Clone, Copy)]
pub(crate) struct Timing {
    pub(crate) median_s: f64,
    pub(crate) fastest_s: f64,
    pub(crate) slowest_s: f64,
    /// Calls of a row.
    pub(crate) calls: usize,
}

/// Most calls of a row.
const MOST_CALLS: usize = 4096;

/// Times calls that go through the sets of tensors in turn. The host queues a row without waiting and waits for its end
/// once, so a call counts as what the GPU needs for it, provided that it needs longer than the host to queue it.
pub(crate) fn time<D: Device>(ctx: &Context<D>, sets: &mut [Run<D>], patience: Patience) -> Result<Timing> {
    let mut next = 0;
    let mut row = |calls: usize| -> Result<f64> {
        let begun = Instant::now();
        for _ in 0..calls {
            let count = sets.len();
            sets[next % count](ctx)?;
            next += 1;
        }
        ctx.device.synchronize()?;
        Ok(begun.elapsed().as_secs_f64())
    };
    // The first calls bring code and clocks up; the next ones tell how many make a row.
    row(2)?;
    let mut calls = 4;
    let estimate_s = loop {
        let row_s = row(calls)?;
        if row_s > patience.row_s / 8.0 || calls >= MOST_CALLS {
            break row_s / calls as f64;
        }
        calls *= 2;
    };
    let calls = ((patience.row_s / estimate_s) as usize).clamp(1, MOST_CALLS);
    let mut seconds =
        (0..patience.rows).map(|_| Ok(row(calls)? / calls as f64)).collect::<Result<Vec<f64>>>()?;
    seconds.sort_by(f64::total_cmp);
    let (fastest_s, slowest_s) = (seconds[0], seconds[seconds.len() - 1]);
    Ok(Timing { median_s: seconds[seconds.len() / 2], fastest_s, slowest_s, calls })
}
