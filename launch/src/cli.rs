//! The vocabulary of commands. The doc comments are the `--help` texts.

pub mod bench;
mod doctor;
mod submit;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use bench::Bench;
pub use doctor::{Accept, Doctor};
pub use submit::Submit;

/// Trains language models: one binary from laptop to supercomputer.
///
/// First steps: `tisserand train examples/quickstart.toml` trains a small model and says how to generate
/// from it. `tisserand plan RUN.toml` says what a run needs before it is started.
///
/// Exit codes: 0 done, 1 failed, 2 bad usage or input, 75 stopped early with a checkpoint (run the same
/// command again).
#[derive(Parser, Debug)]
#[command(name = "tisserand", version, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// A run file and what is laid over it.
#[derive(Args, Debug)]
pub struct RunFile {
    /// The run file (TOML); docs/run-file.md lists every key
    #[arg(value_name = "RUN.toml")]
    pub path: PathBuf,
    /// Overrides one key of the run file, e.g. --set optimizer.lr=1e-4; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub sets: Vec<String>,
}

/// Every command.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Train a model; continues by itself from the newest checkpoint in the run folder
    Train(Train),
    /// Start ranks of this machine as processes, without Slurm: one for each GPU
    Launch(Launch),
    /// Say what a run needs and does, without data: memory, FLOPs, traffic, files, step time
    Plan(Plan),
    /// Draw the losses of runs over their steps, and how far they lie apart, as one page
    Plot(Plot),
    /// Hand a run to Slurm: checks that it fits, writes the job script, submits it
    Submit(Box<Submit>),
    /// Compute the validation losses of a checkpoint
    Eval(Eval),
    /// Continue a text with a trained model
    Generate(Generate),
    /// Train a tokenizer, or translate between text and tokens
    #[command(subcommand)]
    Tokenizer(Tokenizer),
    /// Make and look at token files
    #[command(subcommand)]
    Data(Data),
    /// Look at, check, compare and convert checkpoints
    #[command(subcommand)]
    Checkpoint(Checkpoint),
    /// Show a run file as it is understood, or compare two
    #[command(subcommand)]
    Config(Config),
    /// Measure
    #[command(subcommand)]
    Bench(Bench),
    /// Say whether the machines of this allocation are what a run needs, and which one is slow
    Doctor(Doctor),
    /// Prove on this machine that training works: doctor, traffic, kill and resume, 200 steps
    Accept(Accept),
}

/// `train`
#[derive(Args, Debug)]
pub struct Train {
    /// What to train.
    #[command(flatten)]
    pub run_file: RunFile,
    /// Refuse to start in a folder that holds anything
    #[arg(long)]
    pub fresh: bool,
    /// Continue although this key differs from the one the run began with; may be repeated
    #[arg(long, value_name = "SECTION.KEY")]
    pub allow_change: Vec<String>,
    /// Print nothing but errors
    #[arg(long, short)]
    pub quiet: bool,
    /// Train on N ranks that are threads of this process; the section mesh says how they share the work. Not for
    /// processes that mpirun or srun started, which know how many they are
    #[arg(long, value_name = "N", value_parser = count::<1024>)]
    pub ranks: Option<usize>,
}

/// `launch`
#[derive(Args, Debug)]
#[command(after_help = "\
What ranks print comes line by line with the rank before it. SIGINT, SIGTERM,
SIGUSR1 and SIGUSR2 go to every rank. When a rank fails the others are ended,
and its exit code is that of the launch; 75 if the run stopped early with a
checkpoint. Ranks end when the launcher dies. docs/launching.md has the details.

Examples:
  tisserand launch -n 4 -- train run.toml       four ranks, as four processes
  srun tisserand train run.toml                 under Slurm no launcher is needed
  tisserand train run.toml --ranks 4            four ranks as threads of one process")]
pub struct Launch {
    /// How many
    #[arg(short = 'n', long = "ranks", value_name = "N", value_parser = count::<1024>)]
    pub ranks: usize,
    /// Pass over what other ranks than 0 write to standard output, such as NCCL's log; errors are shown
    #[arg(long)]
    pub quiet_ranks: bool,
    /// Seconds between SIGTERM and SIGKILL for the other ranks when one has failed
    #[arg(long, value_name = "S", default_value_t = 20)]
    pub grace_s: u64,
    /// What each rank does: train or eval, with its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `plot`
#[derive(Args, Debug)]
#[command(after_help = "\
The page has a figure with the loss of every run, and one with the difference of
each to the first, at the steps that both have. It needs no network. Runs of more
than 500 steps are drawn as means; losses that are no numbers are counted.

Examples:
  tisserand plot runs/weave --out loss.html
  tisserand plot runs/dp1 runs/dp8 --out meshes.html        does the mesh show?
  tisserand plot runs/ours peer.jsonl --out peer.html       JSON lines with step and loss")]
pub struct Plot {
    /// Run folders, or files like their metrics.jsonl; the others are compared with the first
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// The page to write
    #[arg(long, value_name = "FILE.html")]
    pub out: PathBuf,
}

/// `plan`
#[derive(Args, Debug)]
#[command(after_help = "\
The real step of one rank runs on a device that only counts: bytes, FLOPs and
traffic are exact, for any number of ranks, in seconds. Times are predictions:
docs/planner.md states the model, and its errors against published runs.

Examples:
  tisserand plan run.toml                          what it needs and moves
  tisserand plan run.toml --nodes 16 --profile jeanzay-h100    and how long
  tisserand plan run.toml --ranks 64 --profile h200 --search   what is best

Profiles: h100-sxm, h200, a100-80gb, gh200, gb200, jeanzay-h100, jeanzay-a100,
leonardo, mn5, or a file PROFILE.toml.")]
pub struct Plan {
    /// What to plan.
    #[command(flatten)]
    pub run_file: RunFile,
    /// Plan for N ranks; sizes of the mesh that are "auto" follow
    #[arg(long, value_name = "N", value_parser = count::<1_048_576>, conflicts_with = "nodes")]
    pub ranks: Option<usize>,
    /// Plan for N nodes, with as many ranks each as --gpus-per-node or the profile says
    #[arg(long, value_name = "N", value_parser = count::<1_048_576>)]
    pub nodes: Option<usize>,
    /// GPUs, and so ranks, of a node: those that share fast links
    #[arg(long, value_name = "G", value_parser = count::<1_048_576>)]
    pub gpus_per_node: Option<usize>,
    /// Predict step time and MFU on these GPUs and this network; without it no time is predicted
    #[arg(long, value_name = "PROFILE")]
    pub profile: Option<String>,
    /// Rank meshes, ZeRO stages, micro-batches and recomputation that fit the memory of --profile
    #[arg(long)]
    pub search: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `eval`
#[derive(Args, Debug)]
pub struct Eval {
    /// The run file that names the validation data.
    #[command(flatten)]
    pub run_file: RunFile,
    /// Checkpoint, run folder or Hugging Face folder
    #[arg(long, value_name = "DIR")]
    pub checkpoint: PathBuf,
    /// Print one JSON object per validation set
    #[arg(long)]
    pub json: bool,
    /// Evaluate on N ranks that are threads of this process, on the run file's mesh; processes: under mpirun
    #[arg(long, value_name = "N", value_parser = count::<1024>)]
    pub ranks: Option<usize>,
}

/// `generate`
#[derive(Args, Debug)]
pub struct Generate {
    /// Checkpoint, run folder or Hugging Face folder
    #[arg(long, value_name = "DIR")]
    pub checkpoint: PathBuf,
    /// The text to continue
    #[arg(long, default_value = "")]
    pub prompt: String,
    /// Tokens to generate at most; generation ends early at an end-of-text token
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub max_tokens: usize,
    /// Divides the logits: below 1 safer, above 1 wilder, 0 always the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    pub temperature: f64,
    /// Choose among the K likeliest tokens only; 0 for all
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub top_k: usize,
    /// Choose among the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub top_p: f64,
    /// Same seed, same text
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// CPU worker threads; 0 for one per core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// Another tokenizer.json than the one beside the weights
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Generate on N ranks that are threads of this process
    #[arg(long, value_name = "N", default_value = "1", value_parser = count::<1024>)]
    pub ranks: usize,
    /// Ranks that share every layer; the others share the weights. As many as the heads allow, if absent
    #[arg(long, value_name = "T")]
    pub tp: Option<usize>,
}

/// `tokenizer`
#[derive(Subcommand, Debug)]
pub enum Tokenizer {
    /// Train a byte-level BPE tokenizer on text files
    Train {
        /// Where to write the tokenizer.json
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Number of entries
        #[arg(long, value_name = "N")]
        vocab_size: usize,
        /// Text files (.txt, source code; .jsonl with one document per line under "text") or globs
        #[arg(required = true, value_name = "FILE")]
        inputs: Vec<String>,
    },
    /// Print the token ids of a text
    Encode {
        /// The tokenizer.json
        #[arg(long, value_name = "FILE")]
        tokenizer: PathBuf,
        /// The text; standard input if absent
        text: Option<String>,
    },
    /// Print the text of token ids
    Decode {
        /// The tokenizer.json
        #[arg(long, value_name = "FILE")]
        tokenizer: PathBuf,
        /// The ids
        #[arg(required = true, value_name = "ID")]
        ids: Vec<u32>,
    },
}

/// `data`
#[derive(Subcommand, Debug)]
pub enum Data {
    /// Turn text files into a token file (Megatron .bin/.idx)
    Tokenize {
        /// Prefix of the files to write: PREFIX.bin and PREFIX.idx
        #[arg(long, value_name = "PREFIX")]
        out: PathBuf,
        /// The tokenizer.json
        #[arg(long, value_name = "FILE")]
        tokenizer: PathBuf,
        /// Text files (one document each; .jsonl: one per line under "text") or globs
        #[arg(required = true, value_name = "FILE")]
        inputs: Vec<String>,
    },
    /// Describe a token file
    Inspect {
        /// Its prefix: PREFIX.bin and PREFIX.idx
        prefix: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print a hash of the samples that a run reads in some steps
    Order {
        /// The run.
        #[command(flatten)]
        run_file: RunFile,
        /// First and last step, e.g. 1..100
        #[arg(long, value_name = "A..B")]
        steps: String,
    },
}

/// `checkpoint`
#[derive(Subcommand, Debug)]
pub enum Checkpoint {
    /// Describe a checkpoint or a Hugging Face folder
    Inspect {
        /// Checkpoint, run folder or Hugging Face folder
        dir: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Check every file and tensor against its checksum
    Verify {
        /// Checkpoint or run folder
        dir: PathBuf,
    },
    /// Compare two checkpoints tensor by tensor; exit code 1 if they differ
    Diff {
        /// One checkpoint, run folder or Hugging Face folder
        a: PathBuf,
        /// The other
        b: PathBuf,
    },
    /// Print a hash of all tensors, the same for every mesh and split into files
    Digest {
        /// Checkpoint, run folder or Hugging Face folder
        dir: PathBuf,
    },
    /// Write the weights as a Hugging Face folder
    Export {
        /// Checkpoint, run folder or Hugging Face folder
        dir: PathBuf,
        /// The folder to write
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Element type: f32 or bf16
        #[arg(long, default_value = "bf16")]
        dtype: String,
    },
}

/// `config`
#[derive(Subcommand, Debug)]
pub enum Config {
    /// Print every key with its value after defaults and derivations
    Show {
        /// The run file.
        #[command(flatten)]
        run_file: RunFile,
    },
    /// Print the keys in which two run files differ; exit code 1 if they do
    Diff {
        /// One run file
        a: PathBuf,
        /// The other
        b: PathBuf,
    },
}

/// A number from 1 to `MOST`.
fn count<const MOST: usize>(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=MOST).contains(count));
    count.ok_or_else(|| format!("a number from 1 to {MOST}"))
}
