//! Where NCCL is looked for.

use std::path::PathBuf;

use super::LibraryError;
use super::table::Table;

/// Names of the library, best first. The bare one comes with development packages only.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];

/// Where to look, and how what is found was told to work. If `file` is there, nowhere else; then in `home`, then where
/// the system's loader looks, which is `LD_LIBRARY_PATH` and what `ldconfig` knows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Search {
    /// The library itself: the run file's `run.nccl_library`.
    pub file: Option<PathBuf>,
    /// A folder that has it in `lib` or `lib64`, or itself: the variable `NCCL_HOME`.
    pub home: Option<PathBuf>,
    /// The variable `NCCL_LAUNCH_ORDER_IMPLICIT`, which NCCL reads as well.
    pub launch_order: Option<String>,
}

impl Search {
    /// What to try, in order.
    fn candidates(&self) -> Vec<PathBuf> {
        if let Some(file) = &self.file {
            return vec![file.clone()];
        }
        let folders = self.home.iter().flat_map(|home| [home.join("lib"), home.join("lib64"), home.clone()]);
        let in_home = folders.flat_map(|folder| NAMES.map(|name| folder.join(name)));
        in_home.chain(NAMES.map(PathBuf::from)).collect()
    }

    fn looked(&self) -> String {
        match (&self.file, &self.home) {
            (Some(file), _) => format!("{} (run.nccl_library)", file.display()),
            (None, Some(home)) => {
                let home = home.display();
                format!(
                    "{} in {home}/lib, {home}/lib64 and {home} (NCCL_HOME) and by the loader",
                    NAMES.join(", ")
                )
            }
            (None, None) => format!("{} by the loader (NCCL_HOME is not set)", NAMES.join(", ")),
        }
    }

    /// Opens the first candidate that there is. One that is there and cannot be opened is not passed over in silence.
    pub(super) fn open(&self) -> Result<(Table, String), LibraryError> {
        let mut reasons = Vec::new();
        for candidate in self.candidates() {
            if candidate.is_absolute() && !candidate.exists() {
                continue;
            }
            match Table::open(&candidate) {
                Ok(table) => return Ok((table, candidate.display().to_string())),
                Err(table::OpenError::NoSymbol(symbol)) => {
                    return Err(LibraryError::NoSymbol { found: candidate.display().to_string(), symbol });
                }
                Err(table::OpenError::NoLibrary(reason)) => reasons.push(reason),
            }
        }
        let reasons = if reasons.is_empty() { "no such file".to_owned() } else { reasons.join("; ") };
        Err(LibraryError::NotFound { looked: self.looked(), reasons })
    }
}

use super::table;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nccl::Library;

    #[test]
    fn a_file_that_is_named_is_the_only_candidate() {
        let search = Search {
            file: Some("/opt/libnccl.so.2".into()),
            home: Some("/opt/nccl".into()),
            ..Search::default()
        };
        assert_eq!(search.candidates(), [PathBuf::from("/opt/libnccl.so.2")]);
    }

    #[test]
    fn the_home_comes_before_the_loader() {
        let search = Search { file: None, home: Some("/opt/nccl".into()), ..Search::default() };
        let candidates = search.candidates();
        assert_eq!(candidates[0], PathBuf::from("/opt/nccl/lib/libnccl.so.2"));
        assert_eq!(candidates[6..], [PathBuf::from("libnccl.so.2"), PathBuf::from("libnccl.so")]);
    }

    #[test]
    fn a_library_that_is_missing_is_one_line() {
        let search = Search { file: Some("/nowhere/libnccl.so.2".into()), ..Search::default() };
        let error = Library::load(&search).err().unwrap().to_string();
        let expected = "NCCL was not found: looked for /nowhere/libnccl.so.2 (run.nccl_library); hint: load the site's \
                        NCCL module, set NCCL_HOME to its folder or run.nccl_library to the file (no such file)";
        assert_eq!(error, expected);
    }

    #[test]
    fn a_library_that_is_not_nccl_is_named_with_what_it_lacks() {
        // Every process of the tests has it.
        let search = Search { file: Some("libc.so.6".into()), ..Search::default() };
        let error = Library::load(&search).err().unwrap().to_string();
        assert!(error.starts_with("libc.so.6 has no ncclGetVersion: it is not NCCL"), "{error}");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_told_with_the_reason() {
        let file = std::env::temp_dir().join(format!("tisserand-not-a-library-{}", std::process::id()));
        std::fs::write(&file, "no library").unwrap();
        let error = Library::load(&Search { file: Some(file.clone()), ..Search::default() })
            .err()
            .unwrap()
            .to_string();
        std::fs::remove_file(&file).unwrap();
        assert!(error.starts_with("NCCL was not found") && error.contains("too short"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}
