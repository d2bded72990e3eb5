//! `metrics.jsonl`: one JSON object per line, each step at most once, whatever happened to the jobs that wrote it.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::clock;
use super::record::Record;
use crate::files::{Access, io_error, sync_folder_of, temporary_of};
use crate::{Error, Result};

/// A record as it stands in the file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Stored<R = Record> {
    /// When it was written, RFC 3339 in UTC.
    pub time: String,
    /// The record, its fields beside `time`.
    #[serde(flatten)]
    pub record: R,
}

/// What [`MetricsLog::open`] took out of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Repair {
    /// Records after the step from which the run goes on.
    pub later: u64,
    /// Whether the last line was cut off by a crash.
    pub torn: bool,
    /// Other lines that are no records; the file as it was is kept as `metrics.jsonl.damaged`.
    pub damaged: u64,
}

impl Repair {
    /// A line for the log; `None` if nothing was taken out.
    pub fn notice(&self) -> Option<String> {
        if *self == Repair::default() {
            return None;
        }
        let mut parts =
            vec![format!("metrics.jsonl: {} records of steps that are run again removed", self.later)];
        if self.torn {
            parts.push("a last line cut off by a crash removed".to_owned());
        }
        if self.damaged > 0 {
            parts.push(format!("{} damaged lines removed, original in metrics.jsonl.damaged", self.damaged));
        }
        Some(parts.join("; "))
    }
}

/// Writer of `metrics.jsonl`. Owned by rank 0, which holds the run's lock.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    len: u64,
    repair: Repair,
}

impl MetricsLog {
    /// Opens `path` for a run that goes on after `step` (0 for the beginning): records of later steps, which
    /// will be written again, and a line that a crash cut off are removed, by a new file in place of the old.
    ///
    /// # Errors
    /// As [`io_error`].
    pub fn open(path: &Path, access: &Access, step: u64) -> Result<Self> {
        let fail = |e: io::Error| io_error("write", path, &e);
        let survey = survey(path, step)?;
        if survey.must_rewrite {
            if survey.repair.damaged > 0 {
                let mut kept = path.as_os_str().to_owned();
                kept.push(".damaged");
                fs::copy(path, &kept).map_err(fail)?;
                access.share(Path::new(&kept))?;
            }
            rewrite(path, access, step)?;
        }
        let file = access.append(path)?;
        let len = file.metadata().map_err(fail)?.len();
        Ok(MetricsLog { path: path.to_owned(), file, len, repair: survey.repair })
    }

    /// What opening took out.
    pub fn repair(&self) -> Repair {
        self.repair
    }

    /// Adds a record and the time, in one write. Readers see it at once; the disk gets it when the system
    /// pleases.
    ///
    /// # Errors
    /// As [`io_error`]; the file then ends with the record before, if the file system lets it.
    pub fn append(&mut self, record: &Record) -> Result<()> {
        let stored = Stored { time: clock::rfc3339(SystemTime::now()), record };
        let mut text = serde_json::to_string(&stored)
            .map_err(|error| Error::fault(format!("cannot encode {}: {error}", self.path.display())))?;
        text.push('\n');
        if let Err(error) = self.file.write_all(text.as_bytes()) {
            // Half a line would spoil the next one. If this fails too, the next `open` repairs it.
            let _ = self.file.set_len(self.len);
            return Err(io_error("write", &self.path, &error));
        }
        self.len += text.len() as u64;
        Ok(())
    }

    /// All records of a file, also of a run that is still being written: a last line without an end is
    /// left out.
    ///
    /// # Errors
    /// Input, if the file is unreadable or a whole line is no record (named by its number).
    pub fn read(path: &Path) -> Result<Vec<Stored>> {
        let mut records = Vec::new();
        for_each_line(path, |number, line| {
            let Some(whole) = line.strip_suffix(b"\n") else { return Ok(()) };
            let record = serde_json::from_slice(whole).map_err(|error| {
                Error::input(format!(
                    "{} line {number} is no record: {error}; hint: continuing the run removes damaged lines",
                    path.display()
                ))
            })?;
            records.push(record);
            Ok(())
        })?;
        Ok(records)
    }
}

#[derive(Default)]
struct Survey {
    repair: Repair,
    must_rewrite: bool,
}

/// What would have to be removed; nothing if there is no file.
fn survey(path: &Path, step: u64) -> Result<Survey> {
    let mut survey = Survey::default();
    if let Err(error) = fs::metadata(path)
        && error.kind() == ErrorKind::NotFound
    {
        return Ok(survey);
    }
    for_each_line(path, |_, line| {
        let whole = line.ends_with(b"\n");
        match step_of(line) {
            Some(of_line) if of_line <= step => survey.must_rewrite |= !whole,
            Some(_) => survey.repair.later += 1,
            None if whole => survey.repair.damaged += 1,
            None => survey.repair.torn = true,
        }
        Ok(())
    })?;
    survey.must_rewrite |= survey.repair != Repair::default();
    Ok(survey)
}

/// Replaces the file by its records up to `step`.
fn rewrite(path: &Path, access: &Access, step: u64) -> Result<()> {
    let fail = |e: io::Error| io_error("write", path, &e);
    let temporary = temporary_of(path);
    let mut kept = BufWriter::new(File::create(&temporary).map_err(fail)?);
    access.share(&temporary)?;
    for_each_line(path, |_, line| {
        if step_of(line).is_some_and(|of_line| of_line <= step) {
            kept.write_all(line.strip_suffix(b"\n").unwrap_or(line)).map_err(fail)?;
            kept.write_all(b"\n").map_err(fail)?;
        }
        Ok(())
    })?;
    let file = kept.into_inner().map_err(|error| fail(error.into_error()))?;
    file.sync_all().map_err(fail)?;
    fs::rename(&temporary, path).map_err(fail)?;
    sync_folder_of(path)
}

/// The step of a record; `None` if the line is none.
fn step_of(line: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Key {
        step: u64,
    }
    serde_json::from_slice::<Key>(line).ok().map(|key| key.step)
}

/// Calls `visit` with the number (from 1) and the bytes of every line, its end included where it has one.
fn for_each_line(path: &Path, mut visit: impl FnMut(usize, &[u8]) -> Result<()>) -> Result<()> {
    let fail = |e: io::Error| io_error("read", path, &e);
    let mut reader = BufReader::new(File::open(path).map_err(fail)?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(fail)? == 0 {
            break;
        }
        visit(number, &line)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::line::tests::example;
    use crate::log::record::{EvalRecord, ResumeRecord, StepRecord};

    fn step(step: u64, loss: f32) -> Record {
        Record::Step(Box::new(StepRecord { step, loss, ..example() }))
    }

    fn records(path: &Path) -> Vec<Record> {
        MetricsLog::read(path).unwrap().into_iter().map(|stored| stored.record).collect()
    }

    fn written(dir: &Path, records: &[Record]) -> PathBuf {
        let path = dir.join("metrics.jsonl");
        let mut log = MetricsLog::open(&path, &Access::umask(), 0).unwrap();
        records.iter().for_each(|record| log.append(record).unwrap());
        path
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let (name, job_id) = ("fr".to_owned(), "7".to_owned());
        let all = [
            Record::Resume(ResumeRecord { step: 0, tokens: 0, job_id, world_size: 4 }),
            step(1, 0.1),
            step(2, f32::INFINITY),
            step(3, f32::NEG_INFINITY),
            Record::Eval(EvalRecord { step: 3, name, loss: 0.1 + 0.2, perplexity: f64::INFINITY, tokens: 9 }),
        ];
        let path = written(dir.path(), &all);
        assert_eq!(records(&path), all);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(r#""type":"step","step":1,"#) && text.contains(r#""loss":0.1,"#), "{text}");
        assert!(text.contains(r#""loss":"inf""#) && text.contains(r#""z_loss":null"#), "{text}");
    }

    /// The fields of a step stand in the page's table for it, in the same order.
    #[test]
    fn the_page_lists_the_fields_of_a_step() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        let page = fs::read_to_string(page).unwrap();
        let table =
            page.split("### `\"type\": \"step\"`").nth(1).unwrap().split("**z-score.**").next().unwrap();
        let listed = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let listed: Vec<&str> = listed.filter(|field| !field.contains('.')).collect();
        let record = serde_json::to_value(Record::Step(Box::new(example()))).unwrap();
        let fields = record.as_object().unwrap().keys().map(String::as_str);
        assert_eq!(listed, fields.filter(|field| *field != "type").collect::<Vec<_>>());
    }

    #[test]
    fn nan_is_written_as_a_string() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path(), &[step(1, f32::NAN)]);
        assert!(fs::read_to_string(&path).unwrap().contains(r#""loss":"NaN""#));
        assert!(matches!(&records(&path)[0], Record::Step(record) if record.loss.is_nan()));
    }

    proptest! {
        #[test]
        fn every_finite_loss_reads_back_bit_for_bit(bits in any::<u32>(), wide in any::<u64>()) {
            let (loss, lr) = (f32::from_bits(bits), f64::from_bits(wide));
            prop_assume!(loss.is_finite() && lr.is_finite());
            let text = serde_json::to_string(&Record::Step(Box::new(StepRecord { loss, lr, ..example() }))).unwrap();
            let Record::Step(read) = serde_json::from_str(&text).unwrap() else { panic!("another type") };
            prop_assert_eq!(read.loss.to_bits(), bits);
            prop_assert_eq!(read.lr.to_bits(), wide);
        }
    }

    #[test]
    fn opening_after_a_step_removes_what_will_be_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path(), &[step(10, 3.0), step(20, 2.0), step(30, 1.0)]);
        let mut log = MetricsLog::open(&path, &Access::umask(), 20).unwrap();
        assert_eq!(log.repair(), Repair { later: 1, ..Repair::default() });
        log.append(&step(30, 1.5)).unwrap();
        assert_eq!(records(&path), [step(10, 3.0), step(20, 2.0), step(30, 1.5)]);
        let untouched = MetricsLog::open(&path, &Access::umask(), 30).unwrap();
        assert_eq!(untouched.repair().notice(), None);
        assert!(!temporary_of(&path).exists());
    }

    #[test]
    fn a_torn_last_line_is_repaired_wherever_it_was_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path(), &[step(1, 3.0), step(2, 2.0)]);
        let whole = fs::read(&path).unwrap();
        let first = whole.iter().position(|&b| b == b'\n').unwrap() + 1;
        // Each cut costs an fsync: the first and last places, and a few between.
        let between = (first + 4..whole.len() - 4).step_by(61);
        for cut in (first..first + 4).chain(between).chain(whole.len() - 4..whole.len()) {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut log = MetricsLog::open(&path, &Access::umask(), 2).unwrap();
            // With only the end of line missing the record is whole.
            let kept: &[Record] =
                if cut == whole.len() - 1 { &[step(1, 3.0), step(2, 2.0)] } else { &[step(1, 3.0)] };
            assert_eq!(log.repair().torn, cut > first && cut < whole.len() - 1);
            assert_eq!(records(&path), kept, "cut at {cut}");
            log.append(&step(3, 1.0)).unwrap();
            assert_eq!(records(&path).len(), kept.len() + 1);
        }
    }

    #[test]
    fn damaged_lines_are_removed_with_the_original_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path(), &[step(1, 3.0)]);
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend_from_slice(b"\0\0\0\n{\"step\":-1}\n");
        fs::write(&path, &bytes).unwrap();
        let error = MetricsLog::read(&path).unwrap_err();
        assert!(error.to_string().contains("line 2 is no record"), "{error}");
        let log = MetricsLog::open(&path, &Access::umask(), 5).unwrap();
        assert_eq!(log.repair(), Repair { damaged: 2, ..Repair::default() });
        assert!(log.repair().notice().unwrap().contains("2 damaged lines"));
        assert_eq!(records(&path), [step(1, 3.0)]);
        assert_eq!(fs::read(dir.path().join("metrics.jsonl.damaged")).unwrap(), bytes);
    }
}
