//! Documents out of text files: `.jsonl` gives one per line, from the key `text`; any other file is one.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::files::read_all;
use crate::files::io_error;
use crate::{Error, Result};

/// One document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Document {
    /// Its text.
    pub text: String,
    /// How many bytes of its file it took: the measure of progress.
    pub file_bytes: u64,
}

/// The documents of these files, in order. One whole document is in memory at a time.
///
/// Items are errors where a file cannot be read, is not UTF-8 (with the byte offset), or where a line of a
/// `.jsonl` file is not an object with a string `text` (with the line number).
pub fn documents(paths: &[PathBuf]) -> impl Iterator<Item = Result<Document>> + Send + use<> {
    let paths = paths.to_vec();
    paths.into_iter().flat_map(|path| -> Box<dyn Iterator<Item = Result<Document>> + Send> {
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            match JsonLines::open(path) {
                Ok(lines) => Box::new(lines),
                Err(error) => Box::new(std::iter::once(Err(error))),
            }
        } else {
            Box::new(std::iter::once(whole_file(&path)))
        }
    })
}

/// Sizes of these files together.
///
/// # Errors
/// The first file that does not exist or is not a regular one.
pub fn total_bytes(paths: &[PathBuf]) -> Result<u64> {
    let mut total = 0;
    for path in paths {
        let metadata = std::fs::metadata(path).map_err(|e| io_error("open", path, &e))?;
        if !metadata.is_file() {
            return Err(Error::input(format!("{}: is not a regular file", path.display())));
        }
        total += metadata.len();
    }
    Ok(total)
}

fn whole_file(path: &Path) -> Result<Document> {
    let bytes = read_all(path)?;
    let file_bytes = bytes.len() as u64;
    let text = String::from_utf8(bytes).map_err(|e| not_utf8(path, e.utf8_error().valid_up_to() as u64))?;
    Ok(Document { text, file_bytes })
}

fn not_utf8(path: &Path, offset: u64) -> Error {
    let path = path.display();
    Error::input(format!(
        "{path}: not UTF-8 at byte {offset}; hint: convert the file, for example with iconv"
    ))
}

/// The rest of a line is ignored.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    text: Cow<'a, str>,
}

struct JsonLines {
    path: PathBuf,
    reader: BufReader<File>,
    line: u64,
    offset: u64,
    buffer: Vec<u8>,
}

impl JsonLines {
    fn open(path: PathBuf) -> Result<Self> {
        let file = File::open(&path).map_err(|e| io_error("open", &path, &e))?;
        let reader = BufReader::with_capacity(1 << 20, file);
        Ok(JsonLines { path, reader, line: 0, offset: 0, buffer: Vec::new() })
    }

    /// The next line that is not blank.
    fn read(&mut self) -> Result<Option<Document>> {
        loop {
            self.buffer.clear();
            let read = self.reader.read_until(b'\n', &mut self.buffer);
            let file_bytes = read.map_err(|e| io_error("read", &self.path, &e))? as u64;
            if file_bytes == 0 {
                return Ok(None);
            }
            let offset = self.offset;
            self.offset += file_bytes;
            self.line += 1;
            let line = std::str::from_utf8(&self.buffer)
                .map_err(|e| not_utf8(&self.path, offset + e.valid_up_to() as u64))?;
            if line.trim().is_empty() {
                continue;
            }
            let parsed: Line = serde_json::from_str(line).map_err(|e| {
                let (path, number) = (self.path.display(), self.line);
                Error::input(format!("{path}, line {number}: not an object with a string \"text\": {e}"))
            })?;
            return Ok(Some(Document { text: parsed.text.into_owned(), file_bytes }));
        }
    }
}

impl Iterator for JsonLines {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}
