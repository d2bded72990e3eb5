//! Root-mean-square norms on a GPU.

use super::driver::Driver;
use super::launch::{GROUP, bytes_for_warps, extent};
use super::{Cuda, LaunchConfig, sums};
use crate::ops::rms_norm::{RmsNormKernels, RmsNormShape};
use crate::ops::{Write, partial_rows};
use crate::{Result, TensorMut, TensorRef, kernel_name};

impl<Dr: Driver> RmsNormKernels for Cuda<Dr> {
    fn rms_norm_forward(
        &self,
        shape: RmsNormShape,
        eps: f32,
        x: TensorRef<'_, Self>,
        weight: TensorRef<'_, Self>,
        out: TensorMut<'_, Self>,
        rstd: TensorMut<'_, Self>,
    ) -> Result<()> {
        let teams = Teams::of_forward(shape);
        let kernel = match teams.is_wide {
            false => kernel_name!("rms_norm_forward", x.dtype(), weight.dtype()),
            true => kernel_name!("rms_norm_forward_wide", x.dtype(), weight.dtype()),
        };
        let [rows, width] = [shape.rows, shape.width].map(extent);
        let args =
            [x.into(), weight.into(), out.into(), rstd.into(), rows, width, eps.into(), teams.team.into()];
        self.launch(kernel, teams.forward_config(shape), &args)
    }

    fn add_rms_norm_forward(
        &self,
        shape: RmsNormShape,
        eps: f32,
        x: TensorRef<'_, Self>,
        residual: TensorRef<'_, Self>,
        weight: TensorRef<'_, Self>,
        sum: TensorMut<'_, Self>,
        out: TensorMut<'_, Self>,
        rstd: TensorMut<'_, Self>,
    ) -> Result<()> {
        let teams = Teams::of_forward(shape);
        let kernel = match teams.is_wide {
            false => kernel_name!("add_rms_norm_forward", x.dtype(), weight.dtype()),
            true => kernel_name!("add_rms_norm_forward_wide", x.dtype(), weight.dtype()),
        };
        let [rows, width] = [shape.rows, shape.width].map(extent);
        let args = [
            x.into(),
            residual.into(),
            weight.into(),
            sum.into(),
            out.into(),
            rstd.into(),
            rows,
            width,
            eps.into(),
            teams.team.into(),
        ];
        self.launch(kernel, teams.forward_config(shape), &args)
    }

    fn rms_norm_backward(
        &self,
        shape: RmsNormShape,
        dout: TensorRef<'_, Self>,
        x: TensorRef<'_, Self>,
        weight: TensorRef<'_, Self>,
        rstd: TensorRef<'_, Self>,
        write: Write,
        dx: TensorMut<'_, Self>,
        dweight: TensorMut<'_, Self>,
        mut partials: TensorMut<'_, Self>,
    ) -> Result<()> {
        let teams = Teams::of_backward(shape);
        let config = teams.backward_config(shape);
        let [rows, width] = [shape.rows, shape.width].map(extent);
        let adds = u32::from(write == Write::Add);
        let (x_dtype, weight_dtype) = (x.dtype(), weight.dtype());
        let args = [
            dout.into(),
            x.into(),
            weight.into(),
            rstd.into(),
            dx.into(),
            partials.reborrow().into(),
            rows,
            width,
            adds.into(),
            teams.team.into(),
        ];
        match teams.is_wide {
            false => self.launch(kernel_name!("rms_norm_backward", x_dtype, weight_dtype), config, &args)?,
            // Its team is the block.
            true => {
                let kernel = kernel_name!("rms_norm_backward_wide", x_dtype, weight_dtype);
                self.launch(kernel, config, &args[..args.len() - 1])?;
            }
        }
        sums::add_partials(self, partials.into_ref(), dweight)
    }
}

/// Widest row of which a thread of the forward kernel has one group.
const MAX_NARROW_FORWARD: usize = 2048;
/// Groups of a wide row that a thread of the forward kernel holds at most.
const WIDE_FORWARD_GROUPS: usize = 4;
/// Rows that a team of the forward kernel has at once, if they are not wide.
const NARROW_FORWARD_ROWS: usize = 4;

/// Widest row of which a thread of the backward kernel has one group, and the team for wider ones.
const MAX_NARROW_BACKWARD: usize = 4096;
const WIDE_BACKWARD_TEAM: usize = 512;
/// Values that a team of the backward kernel sums at once, if rows are not wide.
const NARROW_BACKWARD_ROWS: usize = 2;
/// Widths from one of the two to the other have their sums over rows in shared memory.
const MAX_BACKWARD_IN_REGISTERS: usize = 2 * WIDE_BACKWARD_TEAM * GROUP;
const MAX_BACKWARD_IN_SHARED: usize = 16_384;

/// How a block is divided: see `kernels/cuda/rms_norm.cuh`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Teams {
    /// Threads that work on one row.
    team: u32,
    /// Threads of a block, a multiple of `team`.
    threads: u32,
    /// Whether a thread has several groups of a row, in kernels of their own.
    is_wide: bool,
}

impl Teams {
    /// Small blocks: there are many rows. As many groups in flight for each thread, whatever the width.
    fn of_forward(shape: RmsNormShape) -> Self {
        const THREADS: usize = 256;
        let groups = shape.width.div_ceil(GROUP);
        if shape.width <= MAX_NARROW_FORWARD {
            let team = narrow_team(groups);
            return Self::new(team, THREADS / team, false);
        }
        let team = groups.div_ceil(WIDE_FORWARD_GROUPS).next_multiple_of(64).min(512);
        Self::new(team, 1, true)
    }

    /// Large blocks, since there is only one for each part of 64 rows; small ones for narrow rows, of which there
    /// are many: several on a multiprocessor do not wait for memory at the same time.
    fn of_backward(shape: RmsNormShape) -> Self {
        const THREADS: usize = 512;
        const NARROW_THREADS: usize = 128;
        if shape.width > MAX_NARROW_BACKWARD {
            return Self::new(WIDE_BACKWARD_TEAM, 1, true);
        }
        let team = narrow_team(shape.width.div_ceil(GROUP));
        let threads = if team <= WARP { NARROW_THREADS } else { THREADS };
        Self::new(team, threads / team, false)
    }

    fn new(team: usize, teams: usize, is_wide: bool) -> Self {
        Teams { team: team as u32, threads: (team * teams) as u32, is_wide }
    }

    fn teams(self) -> usize {
        (self.threads / self.team) as usize
    }

    fn forward_config(self, shape: RmsNormShape) -> LaunchConfig {
        let rows_at_once = if self.is_wide { 1 } else { NARROW_FORWARD_ROWS };
        let blocks = shape.rows.div_ceil(rows_at_once * self.teams());
        let bytes = bytes_for_warps(self.threads, rows_at_once);
        LaunchConfig::blocks(blocks, self.threads).with_shared_bytes(bytes)
    }

    fn backward_config(self, shape: RmsNormShape) -> LaunchConfig {
        let values = if self.is_wide { 1 } else { NARROW_BACKWARD_ROWS };
        let sums = if self.teams() > 1 {
            self.threads as usize * GROUP
        } else if (MAX_BACKWARD_IN_REGISTERS + 1..=MAX_BACKWARD_IN_SHARED).contains(&shape.width) {
            shape.width.next_multiple_of(WIDE_BACKWARD_TEAM * GROUP)
        } else {
            0
        };
        let bytes = bytes_for_warps(self.threads, values) + sums * size_of::<f32>();
        LaunchConfig::blocks(partial_rows(shape.rows), self.threads).with_shared_bytes(bytes)
    }
}

/// The smaller kind of warps.
const WARP: usize = 32;

/// Threads for a row of so many groups, one each: a power of two inside a warp, else a multiple of 64.
fn narrow_team(groups: usize) -> usize {
    if groups <= WARP { groups.max(1).next_power_of_two() } else { groups.next_multiple_of(64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(rows: usize, width: usize) -> RmsNormShape {
        RmsNormShape { rows, width }
    }

    #[test]
    fn teams_fit_rows_and_blocks() {
        for width in 1..20_000 {
            let [forward, backward] = [Teams::of_forward, Teams::of_backward].map(|of| of(shape(1, width)));
            for (teams, max_threads) in [(forward, 512), (backward, 512)] {
                assert!(
                    teams.threads.is_multiple_of(64) && teams.threads <= max_threads,
                    "{width} {teams:?}"
                );
                assert!(teams.threads.is_multiple_of(teams.team), "{width} {teams:?}");
                let holds = teams.team as usize * GROUP;
                assert!(teams.is_wide || width <= holds, "{width} {teams:?}");
            }
            assert!(forward.is_wide || forward.threads <= 256, "{width}");
            let held = forward.team as usize * GROUP * WIDE_FORWARD_GROUPS;
            assert!(width <= held || width > 16_384, "{width} {forward:?}");
        }
    }

    #[test]
    fn blocks_cover_all_rows() {
        let blocks = |rows, width| {
            let shape = shape(rows, width);
            let forward = Teams::of_forward(shape).forward_config(shape).grid[0];
            [forward, Teams::of_backward(shape).backward_config(shape).grid[0]]
        };
        assert_eq!(blocks(0, 128), [0, 0]);
        assert_eq!(blocks(64, 128), [1, 1]);
        assert_eq!(blocks(65, 128), [2, 2]);
        assert_eq!(blocks(8192, 4096), [8192, 128]);
        assert_eq!(blocks(8192, 2048), [2048, 128]);
    }

    #[test]
    fn shared_memory_is_that_of_the_layout() {
        let bytes = |width| {
            let shape = shape(1, width);
            let forward = Teams::of_forward(shape).forward_config(shape).shared_bytes;
            [forward, Teams::of_backward(shape).backward_config(shape).shared_bytes]
        };
        assert_eq!(bytes(128), [8 * 16, 4 * 8 + 128 * 32]);
        assert_eq!(bytes(4096), [4 * 4, 16 * 8]);
        assert_eq!(bytes(8192), [8 * 4, 16 * 4]);
        assert_eq!(bytes(16_384), [16 * 4, 16 * 4 + 65_536]);
        assert_eq!(bytes(16_385), [16 * 4, 16 * 4]);
    }
}
