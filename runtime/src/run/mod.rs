//! One run on disk and in time: its folder, the lock that keeps a second job out, its status, and when it
//! must stop. The folder:
//!
//! ```text
//! RUN/  run.toml resolved.toml lineage.json status.json metrics.jsonl tb/ checkpoints/ LOCK
//! RUN/jobs/<n>-<job id>/  environment.json hosts.json rank0.log failure.txt flight/
//! RUN/jobs/submit-<time>.sbatch, slurm-<job id>.log  what Slurm was given, and its log
//! ```

pub mod flight;
pub mod folder;
pub mod host;
pub mod job;
pub mod job_facts;
pub mod lineage;
pub mod lock;
pub mod status;
pub mod stop;
pub mod time_limit;
pub mod triggers;

pub use flight::BlackBox;
pub use folder::RunFolder;
pub use job::{GpuRow, HostRow, JobFolder, ProcessDescription, keep_failure_report};
pub use job_facts::JobFacts;
pub use lineage::{Difference, LineageEntry, Start};
pub use lock::RunLock;
pub use status::{State, Status, StatusFile};
pub use stop::{StopFlag, StopReason};
pub use time_limit::{Deadline, JobEnd, TimeLimit};
pub use triggers::{Trigger, Triggers};
