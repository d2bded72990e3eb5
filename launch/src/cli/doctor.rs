//! `doctor` and `accept`.

use std::path::PathBuf;

use clap::Args;

use super::count;

/// `doctor`
#[derive(Args, Debug)]
#[command(after_help = "\
Every rank makes the same checks at the same time; rank 0 prints. Start it as a
run would be started, in the same allocation:
  srun tisserand doctor --dir $SCRATCH
  mpirun -n 4 tisserand doctor
  tisserand doctor --ranks 2

Exit code 0: all is well, or warnings only; 1: something failed, or with --strict
something warned; 2: bad usage. docs/doctor.md explains every row.")]
pub struct Doctor {
    /// The folder whose file system is examined: where runs are to be
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub dir: PathBuf,
    /// Hold GPUs and network to what this profile of the planner expects
    #[arg(long, value_name = "PROFILE")]
    pub profile: Option<String>,
    /// Seconds of measuring, all checks together; starting and files that are slow to flush come on top
    #[arg(long, value_name = "S", default_value = "20", value_parser = count::<3600>)]
    pub seconds: usize,
    /// Examine with N ranks that are threads of this process
    #[arg(long, value_name = "N", value_parser = count::<1024>)]
    pub ranks: Option<usize>,
    /// Exit with 1 for warnings too
    #[arg(long)]
    pub strict: bool,
    /// Print one JSON object with every figure of every rank
    #[arg(long)]
    pub json: bool,
}

/// `accept`
#[derive(Args, Debug)]
#[command(after_help = "\
Stages: doctor; 200 steps of a tiny model whose loss must fall, each step's traffic
held to the formulas of docs/communication.md, and how much of it computation hides;
a run of this machine that is killed, continued, and must end with the bits of one
that was left alone. Minutes on two cores; no download.

Exit code 0: every stage passed; 1: one failed; 2: bad usage.")]
pub struct Accept {
    /// Where to write the result, one JSON object
    #[arg(long, value_name = "FILE", default_value = "accept.json")]
    pub out: PathBuf,
    /// The folder for the runs, which are removed; its file system is examined
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub dir: PathBuf,
    /// Run with N ranks that are threads of this process
    #[arg(long, value_name = "N", value_parser = count::<64>)]
    pub ranks: Option<usize>,
}
