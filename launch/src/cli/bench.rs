//! `bench`: measurements whose figures must stand up to questions.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{RunFile, count};

/// `bench`
#[derive(Subcommand, Debug)]
pub enum Bench {
    /// Measure how a run scales with its ranks: efficiency, MFU, communication, energy, with their spread
    Scaling(Scaling),
    /// One point of `bench scaling`, on its ranks
    #[command(hide = true)]
    Worker(Worker),
}

/// `bench scaling`
#[derive(Args, Debug)]
#[command(after_help = "\
Every point runs on ranks of its own: warm-up, then steps that are timed. Points
are repeated in the order 1 2 4 4 2 1, so that a machine that drifts shows as
spread and not as scaling. DIR gets scaling.json, .csv, .tex and .html; a sweep
that was cut off goes on with --resume. docs/scaling.md has every definition.

Examples:
  tisserand bench scaling run.toml --ranks 1,2,4 --strong          threads of this machine
  tisserand bench scaling run.toml --nodes 1,2,4,8 --weak --profile h100-sxm
                                   inside of sbatch or salloc: launch/scaling.sbatch
  tisserand bench scaling run.toml --ranks 1,2 --weak --launcher mpirun

Exit codes: 0 all points are there, 1 some failed (the others are reported),
2 bad usage or input: nothing was run.")]
pub struct Scaling {
    /// What is measured.
    #[command(flatten)]
    pub run_file: RunFile,
    /// Numbers of nodes of this Slurm allocation, e.g. 1,2,4,8
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', value_parser = count::<1_048_576>)]
    #[arg(required_unless_present = "ranks", conflicts_with = "ranks")]
    pub nodes: Vec<usize>,
    /// Numbers of ranks of this machine, e.g. 1,2,4
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', value_parser = count::<1024>)]
    pub ranks: Vec<usize>,
    /// Weak scaling: the batch grows with the ranks; training.global_batch is that of the smallest point
    #[arg(long, required_unless_present = "strong", conflicts_with = "strong")]
    pub weak: bool,
    /// Strong scaling: training.global_batch is that of every point
    #[arg(long)]
    pub strong: bool,
    /// Ranks of a node; as SLURM_NTASKS_PER_NODE or the profile says, if absent
    #[arg(long, value_name = "G", value_parser = count::<1024>, conflicts_with = "ranks")]
    pub ranks_per_node: Option<usize>,
    /// Steps that are timed, of each repeat of each point
    #[arg(long, value_name = "N", default_value = "20", value_parser = count::<1_000_000>)]
    pub steps: usize,
    /// Steps before them that do not count
    #[arg(long, value_name = "W", default_value = "5", value_parser = count::<1_000_000>)]
    pub warmup: usize,
    /// How often every point is run
    #[arg(long, value_name = "R", default_value = "3", value_parser = count::<1000>)]
    pub repeats: usize,
    /// Random tokens instead of the run file's data: nothing is read
    #[arg(long)]
    pub synthetic: bool,
    /// GPUs and network of this machine, for MFU and predictions: a name that `plan` knows, or PROFILE.toml
    #[arg(long, value_name = "PROFILE")]
    pub profile: Option<String>,
    /// What starts ranks; srun for --nodes, threads for --ranks if absent
    #[arg(long, value_name = "HOW")]
    pub launcher: Option<Launcher>,
    /// An argument for srun or mpirun, e.g. --launcher-arg=--mpi=pmix; may be repeated
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub launcher_arg: Vec<String>,
    /// Minutes after which a point counts as hung
    #[arg(long, value_name = "M", default_value = "30", value_parser = count::<10_000>)]
    pub point_minutes: usize,
    /// Where results go
    #[arg(long, value_name = "DIR", default_value = "scaling")]
    pub out: PathBuf,
    /// Go on with the sweep in DIR, whose finished points are kept
    #[arg(long)]
    pub resume: bool,
    /// Print the JSON object instead of the table
    #[arg(long)]
    pub json: bool,
}

/// What starts the ranks of a point.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Launcher {
    /// Ranks are threads of one process
    Threads,
    /// Ranks are processes of this machine
    Mpirun,
    /// Ranks are tasks of a step of this Slurm job
    Srun,
}

/// `bench worker`
#[derive(Args, Debug)]
pub struct Worker {
    /// What is measured.
    #[command(flatten)]
    pub run_file: RunFile,
    /// Ranks that are threads
    #[arg(long, value_parser = count::<1024>)]
    pub ranks: Option<usize>,
    /// Steps that are timed
    #[arg(long, value_parser = count::<1_000_000>)]
    pub steps: usize,
    /// Steps before them
    #[arg(long, value_parser = count::<1_000_000>)]
    pub warmup: usize,
    /// Random tokens
    #[arg(long)]
    pub synthetic: bool,
    /// All-reduces by size, instead of steps
    #[arg(long)]
    pub bandwidth: bool,
    /// Ends when standard input ends: the sweep has died
    #[arg(long)]
    pub attached: bool,
    /// The file that rank 0 writes
    #[arg(long)]
    pub write: PathBuf,
}
