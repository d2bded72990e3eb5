//! Whole lines of many ranks on one terminal, each with its rank before it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// What is longer goes out in pieces.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// Where a line belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stream {
    Out,
    Err,
}

/// Whose line it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Speaker {
    Rank(usize),
    Mpirun,
}

/// Prints lines, one at a time. Clones share the terminal.
#[derive(Clone)]
pub(super) struct Printer {
    quiet_ranks: bool,
    turn: Arc<Mutex<()>>,
}

impl Printer {
    /// With `quiet_ranks`, standard output of rank 0 alone.
    pub(super) fn new(quiet_ranks: bool) -> Self {
        Printer { quiet_ranks, turn: Arc::default() }
    }

    /// Prints what comes from `source`, until it ends.
    pub(super) fn relay(&self, speaker: Speaker, stream: Stream, source: impl Read) {
        let is_passed_over = self.is_passed_over(speaker, stream);
        each_line(speaker, source, |line| {
            if !is_passed_over {
                self.print(stream, line);
            }
        });
    }

    fn is_passed_over(&self, speaker: Speaker, stream: Stream) -> bool {
        self.quiet_ranks && stream == Stream::Out && !matches!(speaker, Speaker::Rank(0))
    }

    /// In one write, so that nothing comes between. A reader that has gone away, or a full disk, is no reason to end
    /// a run: the ranks must not be kept waiting.
    fn print(&self, stream: Stream, line: &[u8]) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = match stream {
            Stream::Out => io::stdout().lock().write_all(line),
            Stream::Err => io::stderr().lock().write_all(line),
        };
    }
}

/// Calls `print` with every line, its end and its speaker's name included. What is never ended is a line too.
fn each_line(speaker: Speaker, source: impl Read, mut print: impl FnMut(&[u8])) {
    let mut source = BufReader::new(source);
    let mut line = prefix(speaker);
    let start = line.len();
    loop {
        line.truncate(start);
        // A source that fails has ended: its process is gone.
        match source.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) if line.ends_with(b"\n") => print(&line),
            Ok(_) => {
                line.push(b'\n');
                print(&line);
            }
        }
    }
}

fn prefix(speaker: Speaker) -> Vec<u8> {
    match speaker {
        Speaker::Rank(rank) => format!("[{rank}] "),
        Speaker::Mpirun => "[mpirun] ".to_owned(),
    }
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_whole_and_has_its_rank() {
        let long = "x".repeat(LINE_BYTES_MAX as usize + 1);
        let text = format!("first\n\nno text: \u{fffd}\n{long}\nnot ended");
        let mut lines = Vec::new();
        each_line(Speaker::Rank(3), text.as_bytes(), |line| {
            lines.push(String::from_utf8(line.to_vec()).unwrap())
        });
        assert!(lines.iter().all(|line| line.starts_with("[3] ") && line.matches('\n').count() == 1));
        let lengths: Vec<usize> = lines.iter().map(|line| line.len() - 5).collect();
        assert_eq!(lengths, [5, 0, 12, LINE_BYTES_MAX as usize, 1, 9]);
    }

    #[test]
    fn quiet_ranks_still_tell_errors() {
        let printer = Printer::new(true);
        assert!(printer.is_passed_over(Speaker::Rank(1), Stream::Out));
        assert!(!printer.is_passed_over(Speaker::Rank(1), Stream::Err));
        assert!(!printer.is_passed_over(Speaker::Rank(0), Stream::Out));
        assert!(!Printer::new(false).is_passed_over(Speaker::Rank(1), Stream::Out));
    }
}
