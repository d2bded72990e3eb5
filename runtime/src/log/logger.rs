//! The lines of a run: on standard output for people, in `rank0.log` with the time, and a progress bar.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::clock;
use crate::Result;
use crate::files::Access;

/// Writes lines; may be shared by threads.
#[derive(Debug)]
pub struct Logger {
    quiet: bool,
    /// On a terminal only.
    bar: Option<ProgressBar>,
    /// Also keeps lines of several threads apart.
    file: Mutex<Option<LogFile>>,
}

#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: File,
}

impl Logger {
    /// Lines go to standard output, unless `quiet`, and to `log_file`, if given
    /// ([`crate::run::JobFolder::log_file`]). A progress bar is drawn if standard error is a terminal and not
    /// `quiet`.
    ///
    /// # Errors
    /// If the log file cannot be opened, as [`crate::files::io_error`].
    pub fn new(log_file: Option<&Path>, quiet: bool) -> Result<Self> {
        let open = |path: &Path| -> Result<LogFile> {
            Ok(LogFile { path: path.to_owned(), file: Access::umask().append(path)? })
        };
        let bar = (!quiet && io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{bar:32} {pos}/{len}  {msg}");
            ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr())
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Ok(Logger { quiet, bar, file: Mutex::new(log_file.map(open).transpose()?) })
    }

    /// Writes nothing but warnings, on standard error: for ranks other than 0, and tests.
    pub fn silent() -> Self {
        Logger { quiet: true, bar: None, file: Mutex::new(None) }
    }

    /// A line to the log file and to standard output.
    pub fn line(&self, text: &str) {
        self.write("", text, |text| {
            if !self.quiet {
                // A reader that went away (`| head`) must not end the run; the log file has the line.
                let _ = writeln!(io::stdout().lock(), "{text}");
            }
        });
    }

    /// `warning: text` to the log file and, also when quiet, to standard error.
    pub fn warn(&self, text: &str) {
        self.write("warning: ", text, |text| {
            let _ = writeln!(io::stderr().lock(), "warning: {text}");
        });
    }

    /// `error: text` to the log file alone: whoever gets the error shows it.
    pub fn error(&self, text: &str) {
        self.write("error: ", text, |_| ());
    }

    /// Moves the progress bar: `step` of `total_steps`, and a few words.
    pub fn progress(&self, step: u64, total_steps: u64, words: &str) {
        if let Some(bar) = &self.bar {
            bar.set_length(total_steps);
            bar.set_position(step);
            bar.set_message(words.to_owned());
        }
    }

    fn write(&self, prefix: &str, text: &str, show: impl FnOnce(&str)) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let failed =
            file.as_mut().and_then(|log| log.write(prefix, text).err().map(|e| (log.path.clone(), e)));
        let show_all = || {
            show(text);
            if let Some((path, error)) = &failed {
                let path = path.display();
                let _ = writeln!(
                    io::stderr().lock(),
                    "warning: cannot write {path}: {error}; this job no longer writes it"
                );
            }
        };
        match &self.bar {
            Some(bar) => bar.suspend(show_all),
            None => show_all(),
        }
        if failed.is_some() {
            *file = None;
        }
    }
}

impl LogFile {
    /// One write per line, so that a crash cuts at most the last one.
    fn write(&mut self, prefix: &str, text: &str) -> io::Result<()> {
        let time = clock::rfc3339(SystemTime::now());
        for line in text.lines() {
            self.file.write_all(format!("{time} {prefix}{line}\n").as_bytes())?;
        }
        Ok(())
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_file_has_every_line_with_its_time_and_is_added_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rank0.log");
        for text in ["first", "second\nthird"] {
            let logger = Logger::new(Some(&path), true).unwrap();
            logger.progress(1, 10, "words");
            logger.line(text);
            logger.warn("careful");
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().map(|line| line.split_once("Z ").unwrap().1).collect();
        assert_eq!(lines, ["first", "warning: careful", "second", "third", "warning: careful"]);
    }

    #[test]
    fn threads_do_not_cut_into_each_others_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rank0.log");
        let logger = Logger::new(Some(&path), true).unwrap();
        std::thread::scope(|scope| {
            for name in ["aaaa", "bbbb", "cccc"] {
                let logger = &logger;
                scope.spawn(move || (0..100).for_each(|_| logger.line(name)));
            }
        });
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 300);
        assert!(text.lines().all(|line| line.len() == 24 + 1 + 4), "{text}");
    }

    #[test]
    fn a_log_file_that_cannot_be_opened_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = Logger::new(Some(folder.path()), true).unwrap_err();
        assert!(error.to_string().contains("a folder stands where a file is needed"), "{error}");
    }

    #[test]
    fn a_full_disk_does_not_end_the_run() {
        let logger = Logger::new(Some(Path::new("/dev/full")), true).unwrap();
        logger.line("lost");
        logger.line("not tried again");
        assert!(logger.file.lock().unwrap().is_none());
    }
}
