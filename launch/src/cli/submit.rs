//! The arguments of `submit`.

use std::path::PathBuf;

use clap::Args;

use super::{RunFile, count};

/// `submit`
#[derive(Args, Debug)]
#[command(after_help = "\
A profile says what a machine wants in a job script, and from where each line is:
docs/slurm.md. Before anything is submitted, the planner says whether the run
fits the GPUs' memory, and its checkpoints the file system.

Examples:
  tisserand submit run.toml --profile jeanzay-h100 --nodes 16 --account abc --dry-run
  tisserand submit run.toml --profile leonardo --nodes 64 --account abc --chain 10
  tisserand submit run.toml --profile generic --nodes 2 --ranks-per-node 8

Profiles: generic, jeanzay-h100, jeanzay-a100, leonardo, mn5, jupiter, alps, or a file
PROFILE.toml. lumi and alice-recoque have AMD GPUs: not yet.")]
pub struct Submit {
    /// What to train.
    #[command(flatten)]
    pub run_file: RunFile,
    /// The machine
    #[arg(long, value_name = "PROFILE")]
    pub profile: String,
    /// Nodes of the job
    #[arg(long, value_name = "N", value_parser = count::<1_048_576>)]
    pub nodes: usize,
    /// Time limit of the job, as sbatch takes it: 20:00:00, 1-12:00:00; the profile's if absent
    #[arg(long, value_name = "TIME")]
    pub time: Option<String>,
    /// The project that pays; the profile completes it (abc becomes abc@h100 on Jean Zay)
    #[arg(long, value_name = "NAME")]
    pub account: Option<String>,
    /// The quality of service; the first of the profile that admits time and nodes, if absent
    #[arg(long, value_name = "NAME")]
    pub qos: Option<String>,
    /// Another partition than the profile's
    #[arg(long, value_name = "NAME")]
    pub partition: Option<String>,
    /// Another constraint than the profile's
    #[arg(long, value_name = "FEATURES")]
    pub constraint: Option<String>,
    /// Adds or replaces an option of sbatch, e.g. --sbatch mail-type=END; may be repeated
    #[arg(long = "sbatch", value_name = "NAME[=VALUE]")]
    pub options: Vec<String>,
    /// Loads a module beside the profile's, e.g. the one of NCCL; may be repeated
    #[arg(long = "module", value_name = "NAME")]
    pub modules: Vec<String>,
    /// Ranks of a node, one a GPU; as many as the profile knows, if absent
    #[arg(long, value_name = "R", value_parser = count::<1024>)]
    pub ranks_per_node: Option<usize>,
    /// Cores of a rank; as the profile knows, if absent
    #[arg(long, value_name = "C", value_parser = count::<1024>)]
    pub cpus_per_task: Option<usize>,
    /// Submits N jobs of one name, each of which waits for the one before and continues its run
    #[arg(long, value_name = "N", value_parser = count::<1000>)]
    pub chain: Option<usize>,
    /// One job, which goes back into the queue when it has stopped early; the default where the profile
    /// says so
    #[arg(long, conflicts_with = "chain")]
    pub requeue: bool,
    /// Seconds before the time limit at which the run is told to save and stop; Slurm may be a minute early
    #[arg(long, value_name = "S", value_parser = count::<86_400>)]
    pub signal_lead: Option<usize>,
    /// Passed on to train; may be repeated
    #[arg(long, value_name = "SECTION.KEY")]
    pub allow_change: Vec<String>,
    /// The program that the job runs; this one if absent
    #[arg(long, value_name = "PATH")]
    pub binary: Option<PathBuf>,
    /// Refuses a run whose checkpoints take more; the profile's quotas and the free space, if absent
    #[arg(long, value_name = "BYTES")]
    pub quota_bytes: Option<u64>,
    /// Print the script and submit nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
