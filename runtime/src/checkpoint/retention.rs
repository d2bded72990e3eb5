//! Which checkpoints stay, how the others go, and what crashes leave behind.

use std::path::{Path, PathBuf};

use super::disk::Disk;
use super::folder::{complete_steps, entry_names, latest, parse_step_name, step_name};
use super::manifest::Manifest;
use crate::Result;

/// End of names that are being written or removed: never read.
pub(super) const TMP: &str = ".tmp";
/// End of the name of a step that is being replaced by a new save of itself.
pub(super) const OLD: &str = ".old";

/// Which complete checkpoints are kept. The newest one and the one that `latest` names always are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Retention {
    /// How many of the newest.
    pub keep_last: usize,
    /// For ever: the first checkpoint at or after each multiple of so many steps. The first after, because
    /// saves by the clock seldom meet a multiple.
    pub keep_every_steps: Option<u64>,
    /// The same in tokens.
    pub keep_every_tokens: Option<u64>,
}

impl Retention {
    /// Steps to remove out of `steps`: (step, consumed tokens), newest first.
    fn surplus(&self, steps: &[(u64, u64)], named: Option<u64>) -> Vec<u64> {
        let rolling = steps.len().min(self.keep_last.max(1));
        let first_of_its_multiple = |i: usize, every: Option<u64>, count: fn(&(u64, u64)) -> u64| {
            let Some(every) = every.filter(|&every| every > 0) else { return false };
            let multiple = count(&steps[i]) / every;
            multiple > 0 && steps.get(i + 1).is_none_or(|older| count(older) / every < multiple)
        };
        (rolling..steps.len())
            .filter(|&i| Some(steps[i].0) != named)
            .filter(|&i| !first_of_its_multiple(i, self.keep_every_steps, |s| s.0))
            .filter(|&i| !first_of_its_multiple(i, self.keep_every_tokens, |s| s.1))
            .map(|i| steps[i].0)
            .collect()
    }
}

/// Clears what a crash left, removes the checkpoints that `retention` does not keep and returns their steps.
/// Folders that are not complete are left to the user. No save may be under way.
///
/// # Errors
/// If a folder cannot be read or removed.
pub fn prune(checkpoints_dir: &Path, retention: &Retention) -> Result<Vec<u64>> {
    let disk = Disk::default();
    tidy(&disk, checkpoints_dir)?;
    prune_on(&disk, checkpoints_dir, retention)
}

pub(super) fn prune_on(disk: &Disk, checkpoints_dir: &Path, retention: &Retention) -> Result<Vec<u64>> {
    let tokens = |(step, manifest): (u64, Manifest)| (step, manifest.consumed_tokens);
    let steps: Vec<_> = complete_steps(checkpoints_dir)?.into_iter().map(tokens).collect();
    let named = latest(checkpoints_dir)?.checkpoint.map(|(step, _)| step);
    let surplus = retention.surplus(&steps, named);
    for &step in &surplus {
        remove_aside(disk, &checkpoints_dir.join(step_name(step)))?;
    }
    Ok(surplus)
}

/// Removes a folder so that a crash leaves either all of it or a `.tmp`.
pub(super) fn remove_aside(disk: &Disk, dir: &Path) -> Result<()> {
    let aside = with_suffix(dir, TMP);
    if aside.exists() {
        disk.remove_dir_all(&aside)?;
    }
    disk.rename(dir, &aside)?;
    disk.remove_dir_all(&aside)
}

/// Clears what a save or a removal left when it was killed: `.tmp` goes; `step-N.old` goes if the new
/// step N is there, else it is step N again.
pub(super) fn tidy(disk: &Disk, dir: &Path) -> Result<()> {
    for name in entry_names(dir)? {
        let path = dir.join(&name);
        let step_of = |name: &str| parse_step_name(name.strip_suffix(OLD).unwrap_or(name));
        if let Some(base) = name.strip_suffix(TMP) {
            if step_of(base).is_some() {
                disk.remove_dir_all(&path)?;
            } else if base == super::folder::LATEST {
                disk.remove_file(&path)?;
            }
        } else if name.ends_with(OLD) && step_of(&name).is_some() {
            let step_dir = dir.join(name.strip_suffix(OLD).unwrap_or(&name));
            if step_dir.exists() {
                remove_aside(disk, &path)?;
            } else {
                disk.rename(&path, &step_dir)?;
            }
        }
    }
    Ok(())
}

/// `path` with an addition to its last name.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_and_the_first_of_each_multiple_stay() {
        let steps: Vec<_> = [95, 88, 70, 55, 41, 30, 22, 9].map(|s| (s, s * 1000)).into();
        let by_steps = Retention { keep_last: 2, keep_every_steps: Some(20), keep_every_tokens: None };
        assert_eq!(by_steps.surplus(&steps, None), [55, 30, 9]);
        let by_tokens = Retention { keep_last: 1, keep_every_steps: None, keep_every_tokens: Some(50_000) };
        assert_eq!(by_tokens.surplus(&steps, Some(30)), [88, 70, 41, 22, 9]);
        let none = Retention::default();
        assert_eq!(none.surplus(&steps[..2], Some(88)), Vec::<u64>::new());
        assert_eq!(none.surplus(&steps[..2], None), [88]);
        assert_eq!(none.surplus(&[], None), Vec::<u64>::new());
    }
}
