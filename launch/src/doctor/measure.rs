//! Times of calls.

use std::time::Instant;

use tisserand_runtime::Result;

/// Seconds of the fastest call of as many as `seconds` hold, at least three, behind one that does not count. The
/// fastest, since what disturbs a call makes it slower and never faster.
pub(super) fn fastest(seconds: f64, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    const LEAST: usize = 3;
    call()?;
    let begun = Instant::now();
    let (mut fastest, mut calls) = (f64::INFINITY, 0);
    while calls < LEAST || begun.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        call()?;
        fastest = fastest.min(start.elapsed().as_secs_f64());
        calls += 1;
    }
    // A clock may not tell two instants apart.
    Ok(fastest.max(1e-9))
}
