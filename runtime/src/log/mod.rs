//! What a run tells about itself: the log line, `metrics.jsonl`, TensorBoard, traces, and the statistics behind them.
//! The records' fields, units and formulas: `docs/metrics.md`.

pub mod clock;
pub mod line;
pub mod logger;
pub mod metrics;
pub mod number;
pub mod record;
pub mod statistics;
pub mod tensorboard;
pub mod trace;
pub mod units;

pub use logger::Logger;
pub use metrics::MetricsLog;
pub use record::{CheckpointRecord, EvalRecord, Mfu, Record, ResumeRecord, SlowestRank, StepRecord};
pub use statistics::{SpikeScore, ThroughputMeter};
pub use tensorboard::TensorBoard;
