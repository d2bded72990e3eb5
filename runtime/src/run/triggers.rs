//! Trigger files: `touch RUN/save` asks a run for a checkpoint now, `touch RUN/stop` for one and its end, from any
//! machine that sees the run folder. Rank 0 alone looks, at one name at a time and seldom, since a look is a question
//! to the server of a shared file system. A file is removed when it has been seen: that is the answer to whoever made
//! it, and the next start is not stopped by it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Between two looks. There are two names, so one is looked at every four seconds.
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);

/// What a file asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// A checkpoint; the run goes on.
    Save,
    /// A checkpoint and the end of this start, with exit code 75.
    Stop,
}

impl Trigger {
    const ALL: [Trigger; 2] = [Trigger::Save, Trigger::Stop];

    /// The name of the file in the run folder.
    pub fn file_name(self) -> &'static str {
        match self {
            Trigger::Save => "save",
            Trigger::Stop => "stop",
        }
    }
}

/// The trigger files of a run folder.
#[derive(Debug)]
pub struct Triggers {
    /// In the order of [`Trigger::ALL`].
    files: [TriggerFile; 2],
    looked: Instant,
    /// Which file is looked at next.
    next: usize,
}

#[derive(Debug)]
struct TriggerFile {
    trigger: Trigger,
    path: PathBuf,
    /// It has been acted upon and could not be removed: it asks for nothing more until it is gone.
    is_spent: bool,
}

impl Triggers {
    /// Those of the run folder `dir`. What lies there already was meant for an earlier start: it is removed, with a
    /// line for each in `notices`.
    pub fn new(dir: &Path, notices: &mut Vec<String>) -> Self {
        let mut files = Trigger::ALL.map(|trigger| TriggerFile {
            trigger,
            path: dir.join(trigger.file_name()),
            is_spent: false,
        });
        for file in files.iter_mut().filter(|file| file.is_there()) {
            let notice =
                format!("{} was there before this start: removed without effect", file.path.display());
            notices.push(file.remove().unwrap_or(notice));
        }
        Triggers { files, looked: Instant::now(), next: 0 }
    }

    /// What a file asks for, once for each file that somebody makes; and a warning, once, if it cannot be removed.
    /// Mostly returns without a look.
    pub fn look(&mut self) -> (Option<Trigger>, Option<String>) {
        if self.looked.elapsed() < BETWEEN_LOOKS {
            return (None, None);
        }
        self.looked = Instant::now();
        let file = &mut self.files[self.next];
        self.next = (self.next + 1) % Trigger::ALL.len();
        if !file.is_there() {
            file.is_spent = false;
            return (None, None);
        }
        if file.is_spent {
            return (None, None);
        }
        let warning = file.remove();
        (Some(file.trigger), warning)
    }
}

impl TriggerFile {
    /// A folder that cannot be looked into asks for nothing: whatever is wrong with it, the next save will tell.
    fn is_there(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok()
    }

    /// Removes it; a warning if that fails.
    fn remove(&mut self) -> Option<String> {
        match fs::remove_file(&self.path) {
            Ok(()) => None,
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                self.is_spent = true;
                let path = self.path.display();
                Some(format!(
                    "cannot remove {path}: {error}; it has no further effect; hint: remove it by hand"
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Triggers {
        /// What both files ask for, without a wait.
        fn look_now(&mut self) -> Vec<(Option<Trigger>, Option<String>)> {
            let looks = Trigger::ALL.map(|_| {
                self.looked = Instant::now().checked_sub(BETWEEN_LOOKS).unwrap();
                self.look()
            });
            looks.into_iter().filter(|(trigger, warning)| trigger.is_some() || warning.is_some()).collect()
        }
    }

    #[test]
    fn a_file_asks_once_and_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let mut triggers = Triggers::new(dir.path(), &mut Vec::new());
        assert_eq!(triggers.look_now(), []);
        for trigger in Trigger::ALL {
            let path = dir.path().join(trigger.file_name());
            fs::write(&path, "").unwrap();
            assert_eq!(triggers.look(), (None, None), "too early");
            assert_eq!(triggers.look_now(), [(Some(trigger), None)]);
            assert!(!path.exists());
            assert_eq!(triggers.look_now(), []);
        }
    }

    #[test]
    fn a_file_that_was_there_before_has_no_effect() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("stop"), "").unwrap();
        let mut notices = Vec::new();
        let mut triggers = Triggers::new(dir.path(), &mut notices);
        assert!(notices.len() == 1 && notices[0].contains("stop was there before"), "{notices:?}");
        assert!(!dir.path().join("stop").exists());
        assert_eq!(triggers.look_now(), []);
    }

    #[test]
    fn what_cannot_be_removed_acts_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut triggers = Triggers::new(dir.path(), &mut Vec::new());
        let path = dir.path().join("save");
        fs::create_dir(&path).unwrap();
        let [(trigger, Some(warning))] = &triggers.look_now()[..] else { panic!("one look, one warning") };
        assert_eq!(*trigger, Some(Trigger::Save));
        assert!(warning.contains("cannot remove") && warning.contains("hint: "), "{warning}");
        assert_eq!(triggers.look_now(), []);
        // Whoever removes it may ask again.
        fs::remove_dir(&path).unwrap();
        assert_eq!(triggers.look_now(), []);
        fs::write(&path, "").unwrap();
        assert_eq!(triggers.look_now(), [(Some(Trigger::Save), None)]);
    }
}
