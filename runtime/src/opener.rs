//! How a rank opens the files that other ranks of its machine read too: token files, checkpoints.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

type Open = dyn Fn(&Path) -> io::Result<File> + Send + Sync;

/// Opens files for reading by position or mapping: several ranks may hold the same open file, and with it one position.
///
/// Whoever keeps an opener may keep its files open: it is for the start of a run, and dropped after it.
#[derive(Clone)]
pub struct Opener(Arc<Open>);

impl Opener {
    /// By way of `open`.
    pub fn new(open: impl Fn(&Path) -> io::Result<File> + Send + Sync + 'static) -> Self {
        Opener(Arc::new(open))
    }

    /// Opens each file once, however often and by whichever clone it is asked for.
    pub fn once() -> Self {
        let opened = Mutex::new(HashMap::<PathBuf, File>::new());
        Opener::new(move |path| {
            // Held while a file is opened: who asks for the same one waits for it.
            let mut opened = opened.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(file) = opened.get(path) {
                return file.try_clone();
            }
            let file = File::open(path)?;
            opened.insert(path.to_owned(), file.try_clone()?);
            Ok(file)
        })
    }

    /// Opens a file.
    ///
    /// # Errors
    /// As [`File::open`].
    pub fn open(&self, path: &Path) -> io::Result<File> {
        (self.0)(path)
    }
}

/// Opens each file when it is asked for.
impl Default for Opener {
    fn default() -> Self {
        Opener::new(|path| File::open(path))
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opener")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;

    use super::*;

    fn text(mut file: File) -> String {
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn once_opens_a_file_once_and_asks_again_for_what_was_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let opener = Opener::once();
        assert_eq!(opener.open(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::write(&path, "first").unwrap();
        assert_eq!(text(opener.open(&path).unwrap()), "first");
        // Another file of this name is not looked at.
        fs::write(dir.path().join("other"), "second").unwrap();
        fs::rename(dir.path().join("other"), &path).unwrap();
        let again = opener.clone().open(&path).unwrap();
        assert_eq!(again.metadata().unwrap().len(), 5);
        assert_eq!(text(Opener::default().open(&path).unwrap()), "second");
    }
}
