//! Finding a checkpoint: names of step folders, the newest complete one, and what a path of the user means.

use std::fs;
use std::path::{Path, PathBuf};

use super::disk::read_error;
use super::manifest::{self, Manifest};
use super::{hf, retention};
use crate::{Error, Result};

/// The file beside the step folders that names the newest one.
pub(super) const LATEST: &str = "latest";

/// The folder name of a step: `step-00000120`.
pub fn step_name(step: u64) -> String {
    format!("step-{step:08}")
}

/// The step of such a name; `None` for any other name, `.tmp` and `.old` included.
pub fn parse_step_name(name: &str) -> Option<u64> {
    let step = name.strip_prefix("step-")?.parse().ok()?;
    (step_name(step) == name).then_some(step)
}

/// The step of a checkpoint's folder, by its name.
pub fn step_of(dir: &Path) -> Option<u64> {
    parse_step_name(dir.file_name()?.to_str()?)
}

/// The checkpoint to go on from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Latest {
    /// Step and folder; `None` if no complete checkpoint exists.
    pub checkpoint: Option<(u64, PathBuf)>,
    /// What was not as a finished save leaves it. Show it: with no checkpoint it says that some were
    /// found and none is whole.
    pub warning: Option<String>,
    /// Whether the warning is of damage: what `latest` names is not whole. A newer step than the one it names
    /// is no damage: a crash between writing a step and naming it leaves that.
    pub damaged: bool,
}

/// The checkpoint that `latest` names; if that is missing or incomplete, the newest complete one, with a
/// warning. Complete: the manifest is undamaged and every file is there with its size.
///
/// # Errors
/// If the folder exists and cannot be read.
pub fn latest(checkpoints_dir: &Path) -> Result<Latest> {
    let path = checkpoints_dir.join(LATEST);
    let named = match fs::read_to_string(&path) {
        Ok(text) => match parse_step_name(text.trim_end()) {
            Some(step) => Ok(step),
            None => Err(format!("{} does not name a step", path.display())),
        },
        Err(e) => Err(read_error(&path, &e).to_string()),
    };
    let candidates = candidates(checkpoints_dir)?;
    let mut complaints = Vec::new();
    match named {
        Err(complaint) if !candidates.is_empty() => complaints.push(complaint),
        Err(_) => return Ok(Latest::default()),
        Ok(step) => {
            if !candidates.iter().any(|(s, _)| *s == step) {
                complaints.push(format!("{} names {}, which is missing", path.display(), step_name(step)));
            }
            for (_, dir) in candidates.iter().filter(|(s, _)| *s == step) {
                match Manifest::read_complete(dir) {
                    Ok(_) => {
                        let warning = newer_warning(&candidates, step, &path);
                        let checkpoint = Some((step, dir.clone()));
                        return Ok(Latest { checkpoint, warning, damaged: false });
                    }
                    Err(e) => complaints.push(e.to_string()),
                }
            }
        }
    }
    for (step, dir) in candidates {
        match Manifest::read_complete(&dir) {
            Ok(_) => {
                complaints.push(format!("the newest complete checkpoint is {}", dir.display()));
                let (checkpoint, warning) = (Some((step, dir)), Some(complaints.join("; ")));
                return Ok(Latest { checkpoint, warning, damaged: true });
            }
            Err(e) => {
                let complaint = e.to_string();
                if !complaints.contains(&complaint) {
                    complaints.push(complaint);
                }
            }
        }
    }
    complaints.push("no complete checkpoint is left".into());
    Ok(Latest { checkpoint: None, warning: Some(complaints.join("; ")), damaged: true })
}

/// `latest` is obeyed even where a newer step is complete (someone may have gone back on purpose), but
/// not silently.
fn newer_warning(candidates: &[(u64, PathBuf)], step: u64, latest: &Path) -> Option<String> {
    let (_, newer) = candidates.iter().find(|(s, dir)| *s > step && Manifest::read_complete(dir).is_ok())?;
    Some(format!("{} names {}, although {} is complete", latest.display(), step_name(step), newer.display()))
}

/// Folders that may hold a checkpoint, newest first. `step-N.old` stands behind `step-N`: it matters only
/// if a crash hit while step N was replaced.
fn candidates(checkpoints_dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for name in entry_names(checkpoints_dir)? {
        let base = name.strip_suffix(retention::OLD).unwrap_or(&name);
        if let Some(step) = parse_step_name(base) {
            found.push((step, base != name, checkpoints_dir.join(&name)));
        }
    }
    found.sort_by_key(|(step, is_old, _)| (std::cmp::Reverse(*step), *is_old));
    Ok(found.into_iter().map(|(step, _, dir)| (step, dir)).collect())
}

/// All complete steps, newest first, with their manifests.
pub(super) fn complete_steps(checkpoints_dir: &Path) -> Result<Vec<(u64, Manifest)>> {
    let steps = entry_names(checkpoints_dir)?.into_iter().filter_map(|name| parse_step_name(&name));
    let mut complete: Vec<_> = steps
        .filter_map(|step| {
            let dir = checkpoints_dir.join(step_name(step));
            Manifest::read_complete(&dir).ok().map(|manifest| (step, manifest))
        })
        .collect();
    complete.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
    Ok(complete)
}

/// Names in a folder; none if it does not exist. Names that are not UTF-8 are not ours.
pub(super) fn entry_names(dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|e| read_error(dir, &e))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(|e| read_error(dir, &e))?.file_name().into_string().ok());
    }
    Ok(names)
}

/// What a path holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// A step folder of ours.
    Checkpoint(PathBuf),
    /// A Hugging Face folder.
    HfFolder(PathBuf),
}

/// A path of the user, understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolved {
    /// What to open.
    pub source: Source,
    /// As in [`Latest`].
    pub warning: Option<String>,
    /// As in [`Latest`].
    pub damaged: bool,
}

/// Accepts a run folder, its `checkpoints/`, a step folder, or a Hugging Face folder.
///
/// # Errors
/// If the path holds none of these, or a run without a complete checkpoint.
pub fn resolve(path: &Path) -> Result<Resolved> {
    let shown = path.display();
    let entries = fs::metadata(path).map_err(|e| read_error(path, &e))?;
    if !entries.is_dir() {
        return Err(Error::input(format!("{shown} is not a folder; hint: name the folder that holds it")));
    }
    let found = |source| Ok(Resolved { source, warning: None, damaged: false });
    if path.join(manifest::FILE_NAME).exists() {
        if path.extension().is_some_and(|e| e == "tmp") {
            return Err(Error::input(format!("{shown} is an unfinished save; hint: name a complete step")));
        }
        return found(Source::Checkpoint(path.into()));
    }
    if hf::is_hf_folder(path) {
        return found(Source::HfFolder(path.into()));
    }
    if path.join("trainer.json").exists() || path.join("optimizer").is_dir() {
        return Err(Error::input(format!(
            "{shown}/manifest.json is missing; hint: the save did not finish or the folder was not copied whole"
        )));
    }
    let below = path.join("checkpoints");
    let checkpoints_dir = if below.is_dir() { below } else { path.into() };
    let Latest { checkpoint, warning, damaged } = latest(&checkpoints_dir)?;
    if let Some((_, dir)) = checkpoint {
        return Ok(Resolved { source: Source::Checkpoint(dir), warning, damaged });
    }
    let why = warning.map(|w| format!(" ({w})")).unwrap_or_default();
    Err(Error::input(format!(
        "{shown} holds no complete checkpoint{why}; hint: name a run folder, a folder step-N, or a Hugging \
         Face folder with model.safetensors"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_names_read_back_and_others_are_not_steps() {
        for step in [0, 7, 120, 99_999_999, 100_000_000, u64::MAX] {
            assert_eq!(parse_step_name(&step_name(step)), Some(step));
        }
        assert_eq!(step_name(120), "step-00000120");
        for name in ["step-120", "step-00000120.tmp", "step-+0000120", "step-000000120", "step-", "latest"] {
            assert_eq!(parse_step_name(name), None, "{name}");
        }
    }

    #[test]
    fn an_absent_or_empty_folder_has_no_checkpoint_and_no_warning() {
        let dir = tempfile::tempdir().unwrap();
        let none = Latest::default();
        assert_eq!(latest(&dir.path().join("absent")).unwrap(), none);
        assert_eq!(latest(dir.path()).unwrap(), none);
        assert!(resolve(dir.path()).unwrap_err().to_string().contains("no complete checkpoint"));
    }
}
