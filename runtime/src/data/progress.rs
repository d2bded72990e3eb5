//! Progress of work that takes more than two seconds: a bar on a terminal, one line at the end elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work shorter than this is not reported.
const QUIET: Duration = Duration::from_secs(2);

/// Whether and where progress is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Nowhere.
    Quiet,
    /// On standard error.
    Stderr,
}

impl Progress {
    /// Begins a stage of `total_bytes`.
    pub fn stage(self, label: &'static str, total_bytes: u64) -> Stage {
        let bar = ProgressBar::with_draw_target(Some(total_bytes), ProgressDrawTarget::hidden());
        let template = "{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} ETA {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(label);
        Stage { bar, label, started: Instant::now(), visible: self == Progress::Stderr }
    }
}

/// One stage of a longer work. Shared by the threads that do it.
pub struct Stage {
    bar: ProgressBar,
    label: &'static str,
    started: Instant,
    visible: bool,
}

impl Stage {
    /// Counts `bytes` more.
    pub fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
        if self.visible && self.bar.is_hidden() && self.started.elapsed() > QUIET {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    /// Ends the stage.
    pub fn finish(self) {
        self.bar.finish_and_clear();
        let seconds = self.started.elapsed().as_secs_f64();
        if self.visible && self.started.elapsed() > QUIET && !std::io::stderr().is_terminal() {
            let megabytes = self.bar.position() as f64 / 1e6;
            eprintln!("{}: {megabytes:.1} MB in {seconds:.1} s", self.label);
        }
    }
}
