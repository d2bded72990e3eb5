//! Jobs of Slurm: what a machine wants in its scripts, the script of a run, and when a job ends.
//!
//! - [`profile`]: the machines, from `launch/profiles/*.toml`; [`walltime`]: time limits as Slurm writes
//!   them;
//! - [`script`]: a job as text, by `template` and `launch/templates/job.sbatch`; [`sbatch`]: hands it in;
//! - [`limit`]: asks Slurm, inside of a job, when it ends.
//!
//! What a user asked for meets the profile in `commands/submit`.

pub mod limit;
pub mod profile;
pub mod sbatch;
pub mod script;
mod template;
pub mod walltime;
