//! The folder of a sweep: what is finished is on disk, and a sweep that was cut off goes on from there.
//!
//! ```text
//! DIR/  sweep.json  environment.json  scaling.{json,csv,tex,html}
//! DIR/points/nodes-4-repeat-2.json  bandwidth.json        what ranks measured, written aside and renamed
//! DIR/logs/nodes-4-repeat-2.log                           what they printed
//! DIR/work/                                               where their processes meet; data made by data.prepare
//! ```

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tisserand_runtime::files::{Access, io_error};
use tisserand_runtime::{Error, Result};

use super::sweep::{Sweep, Turn};

/// The folder.
pub struct Store {
    dir: PathBuf,
    access: Access,
}

impl Store {
    /// Opens the folder for a sweep: a new one, or with `resume` one that this sweep was begun in.
    ///
    /// # Errors
    /// Another sweep's results are there, or any and `resume` is not wanted.
    pub fn open(dir: &Path, sweep: &Sweep, resume: bool, group: Option<&str>) -> Result<Store> {
        let access = group.map_or_else(|| Ok(Access::umask()), Access::group)?;
        let store = Store { dir: dir.to_owned(), access };
        let path = store.dir.join("sweep.json");
        let shown = store.dir.display();
        if !path.exists() {
            for folder in ["points", "logs", "work"] {
                store.access.create_dir_all(&store.dir.join(folder))?;
            }
            store.write(&path, sweep)?;
            return Ok(store);
        }
        if !resume {
            let hint = "hint: --resume goes on with it, --out names another folder";
            return Err(Error::input(format!("--out {shown}: a sweep is there already; {hint}")));
        }
        let begun: Sweep = read(&path)?;
        match difference(&begun, sweep) {
            None => Ok(store),
            Some(field) => Err(Error::input(format!(
                "--resume: the sweep in {shown} was begun with another {field}; hint: the same command line and run \
                 file, or another --out"
            ))),
        }
    }

    /// Where the ranks of a turn write.
    pub fn point(&self, sweep: &Sweep, turn: Turn) -> PathBuf {
        self.dir.join("points").join(format!("{}.json", name(sweep, turn)))
    }

    /// Where the ranks that measure bandwidth write.
    pub fn bandwidth(&self) -> PathBuf {
        self.dir.join("points/bandwidth.json")
    }

    /// What a turn printed; `None`: the measurement of bandwidth.
    pub fn log(&self, sweep: &Sweep, turn: Option<Turn>) -> PathBuf {
        let name = turn.map_or_else(|| "bandwidth".to_owned(), |turn| name(sweep, turn));
        self.dir.join("logs").join(format!("{name}.log"))
    }

    /// The run folder of the ranks.
    pub fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    /// Where the environment is kept as it was when the sweep began.
    pub fn environment(&self) -> PathBuf {
        self.dir.join("environment.json")
    }

    /// A result: `scaling.json`, say.
    pub fn result(&self, extension: &str) -> PathBuf {
        self.dir.join(format!("scaling.{extension}"))
    }

    /// Writes JSON; readers see it whole or not at all.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, path: &Path, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| Error::fault(format!("cannot encode {}: {error}", path.display())))?;
        self.write_text(path, &format!("{text}\n"))
    }

    /// Writes text, as above.
    ///
    /// # Errors
    /// The disk's.
    pub fn write_text(&self, path: &Path, text: &str) -> Result<()> {
        self.access.write_atomic(path, text.as_bytes())
    }
}

/// Reads JSON that was written by a sweep.
///
/// # Errors
/// It is not there, or another version's.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(|error| io_error("read", path, &error))?;
    serde_json::from_str(&text).map_err(|error| {
        Error::input(format!("{}: {error}; hint: begin the sweep anew with another --out", path.display()))
    })
}

fn name(sweep: &Sweep, turn: Turn) -> String {
    format!("{}-{}-repeat-{}", sweep.unit, turn.count, turn.repeat)
}

/// The first thing in which two sweeps differ that decides what is measured. More counts, repeats or patience than
/// at the beginning are no difference: they add points.
fn difference(begun: &Sweep, now: &Sweep) -> Option<&'static str> {
    let checks = [
        ("kind (--weak or --strong)", begun.kind == now.kind),
        ("--nodes or --ranks", begun.unit == now.unit && begun.counts.first() == now.counts.first()),
        ("--ranks-per-node", begun.ranks_per_unit == now.ranks_per_unit),
        ("--warmup", begun.warmup == now.warmup),
        ("--steps", begun.steps == now.steps),
        ("--synthetic", begun.data == now.data),
        ("--launcher", begun.launcher == now.launcher && begun.launcher_args == now.launcher_args),
        ("run file", begun.run_file == now.run_file),
        ("--set", begun.sets == now.sets),
    ];
    checks.into_iter().find(|(_, same)| !same).map(|(field, _)| field)
}

#[cfg(test)]
mod tests {
    use super::super::sweep::Kind;
    use super::super::sweep::tests::example;
    use super::*;

    #[test]
    fn a_sweep_goes_on_only_where_it_was_begun() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("scaling");
        let sweep = example(Kind::Weak, &[1, 2]);
        let store = Store::open(&dir, &sweep, true, None).unwrap();
        let turn = Turn { count: 2, repeat: 1 };
        assert!(store.point(&sweep, turn).ends_with("points/nodes-2-repeat-1.json"));
        let again = Store::open(&dir, &sweep, false, None).map(drop).unwrap_err();
        assert!(again.exit_code() == 2 && again.to_string().contains("hint: --resume"), "{again}");
        Store::open(&dir, &Sweep { repeats: 5, ..sweep.clone() }, true, None).unwrap();
        let other = Store::open(&dir, &Sweep { steps: 5, ..sweep }, true, None).map(drop).unwrap_err();
        assert!(other.to_string().contains("begun with another --steps"), "{other}");
    }
}
