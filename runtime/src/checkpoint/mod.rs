//! Checkpoints on disk: global tensors in safetensors files, written atomically, checked by checksums.
//!
//! Nothing here knows devices, models or meshes: a tensor is a name, a global shape and row-major bytes, of
//! which a rank may hold any element ranges. So a checkpoint loads on every mesh.
//!
//! ```text
//! checkpoints/latest                       names the newest complete step
//! checkpoints/step-00000120/manifest.json  format version, every file and tensor, checksums; written last
//!                           trainer.json   counters and statistics ([`TrainerState`])
//!                           weights/       a Hugging Face folder, in compute dtype
//!                           optimizer/     state-0000X-of-0000N.safetensors: master, moments
//! ```
//!
//! Writing: [`save`](mod@save) (whole save, weights-only export, by all ranks of a [`Crew`]), [`StepWriter`] (its
//! phases), [`BackgroundSaver`], [`Retention`]. Reading: [`resolve`], [`CheckpointReader`], [`HfFolder`].
//! Commands: [`verify()`], [`diff()`], [`digest()`], [`inspect()`], [`export_hf`].
//!
//! **What makes a crash harmless.** A step is written as `step-N.tmp`, synced, and renamed when it is
//! whole; a folder to be removed is renamed to `.tmp` first; a step that is written again is first moved to
//! `step-N.old`. Readers ignore `.tmp`, and take `.old` only where `step-N` is gone.

mod background;
mod crew;
mod diff;
mod digest;
mod disk;
mod export;
mod folder;
mod header;
mod hf;
mod inspect;
mod layout;
mod load;
mod manifest;
mod part_files;
mod retention;
pub mod save;
mod snapshot;
mod step_writer;
mod tensor_set;
mod trainer_state;
mod verify;
mod workers;

#[cfg(test)]
mod crash_tests;

pub use background::{BackgroundSaver, Job};
pub use crew::Crew;
pub use diff::{Difference, TensorDiff, diff};
pub use digest::digest;
pub use export::export_hf;
pub use folder::{Latest, Resolved, Source, latest, parse_step_name, resolve, step_name, step_of};
pub use header::{Header, StoredDType, TensorInfo};
pub use hf::HfFolder;
pub use inspect::{Summary, TensorSummary, inspect};
pub use layout::{FilePlan, Place, PlannedFile, TensorSpec};
pub use load::CheckpointReader;
pub use manifest::{FileRecord, Manifest, MeshAxes, Part, Slice, TensorRecord};
pub use part_files::SliceRecord;
pub use retention::{Retention, prune};
pub use save::{SaveJob, Saved, WeightsJob, save, save_weights};
pub use snapshot::{Piece, Snapshot, SnapshotBuffer, TensorData};
pub use step_writer::{Documents, SaveOptions, StepWriter};
pub use tensor_set::{TensorLayout, TensorSet};
pub use trainer_state::TrainerState;
pub use verify::{Problem, Report, verify};

#[cfg(target_endian = "big")]
compile_error!("safetensors files are little-endian and are read here without swapping bytes");
