//! `tisserand plot`

use tisserand_runtime::Result;
use tisserand_runtime::files::write_atomic;

use super::DONE;
use crate::cli;
use crate::curves::{Curve, page};
use crate::output;

/// Draws the losses of runs, and prints how far they lie apart.
pub(super) fn run(arguments: &cli::Plot) -> Result<u8> {
    let curves = arguments.runs.iter().map(|path| Curve::read(path)).collect::<Result<Vec<_>>>()?;
    let gaps = curves[1..].iter().map(|curve| curve.less(&curves[0])).collect::<Result<Vec<_>>>()?;
    write_atomic(&arguments.out, page(&curves, &gaps).as_bytes())?;
    for gap in &gaps {
        output::line(&gap.summary())?;
    }
    output::line(&format!("{}: written", arguments.out.display()))?;
    Ok(DONE)
}
