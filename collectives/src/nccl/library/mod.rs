//! NCCL itself, whose functions are looked up when a run asks for it. A program that has this feature also starts where
//! there is none.
//!
//! - here: [`Library`], what was found; `search`: where; `table`: its functions; `config`: how a communicator is asked
//!   for, and which versions are refused.
//! - `operation`: a call in NCCL's terms; `comm`: one NCCL communicator; `fabric`: lines over them. What is unsafe is
//!   in `table` and `comm`.
//! - In tests, `strict`: a library that stands for NCCL's and notes whoever uses it wrongly.

mod comm;
mod config;
pub(super) mod fabric;
mod operation;
mod search;
#[cfg(test)]
mod strict;
mod table;

use std::sync::Arc;

pub use search::Search;
use table::Table;

/// NCCL, loaded. Clones share it; it stays loaded until the process ends, since it has threads of its own.
#[derive(Clone)]
pub struct Library {
    table: Arc<Table>,
    version: Version,
    found: Arc<str>,
    keeps_order: bool,
}

/// A version of NCCL.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

/// Why there is no NCCL to use: one line that says what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LibraryError {
    /// No file.
    #[error(
        "NCCL was not found: looked for {looked}; hint: load the site's NCCL module, set NCCL_HOME to its folder or \
         run.nccl_library to the file ({reasons})"
    )]
    NotFound {
        /// Where it was looked for.
        looked: String,
        /// What the system's loader said.
        reasons: String,
    },
    /// A function is missing.
    #[error(
        "{found} has no {symbol}: it is not NCCL, or one older than 2.19; hint: set run.nccl_library to a newer one"
    )]
    NoSymbol {
        /// The file.
        found: String,
        /// The function.
        symbol: &'static str,
    },
    /// It does not say its version.
    #[error("{found} does not work: ncclGetVersion returned {code}")]
    NoVersion {
        /// The file.
        found: String,
        /// NCCL's code.
        code: i32,
    },
    /// It is too old, or known to be broken.
    #[error("NCCL {version} ({found}) {why}; hint: set run.nccl_library to another version")]
    Refused {
        /// The file.
        found: String,
        /// Its version.
        version: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl Version {
    const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Version { major, minor, patch }
    }

    /// From the number that NCCL since 2.9 gives: 22703 is 2.27.3. Older ones come out as major version 0.
    fn of_code(code: u32) -> Self {
        Version::new(code / 10_000, code / 100 % 100, code % 100)
    }

    fn code(self) -> u32 {
        self.major * 10_000 + self.minor * 100 + self.patch
    }
}

impl Library {
    /// The first library that `search` finds, if it will do.
    ///
    /// # Errors
    /// There is none; it lacks a function; its version is refused.
    pub fn load(search: &Search) -> Result<Self, LibraryError> {
        let (table, found) = search.open()?;
        let code = table.version().map_err(|code| LibraryError::NoVersion { found: found.clone(), code })?;
        let version = Version::of_code(code);
        if let Some(why) = config::refusal(version) {
            return Err(LibraryError::Refused { found, version: version.to_string(), why });
        }
        let keeps_order = config::keeps_order(version, search.launch_order.as_deref());
        Ok(Library { table: Arc::new(table), version, found: found.into(), keeps_order })
    }

    /// One line for the log: "NCCL 2.27.3 (libnccl.so.2)".
    pub fn describe(&self) -> String {
        format!("NCCL {} ({})", self.version, self.found)
    }

    /// Whether NCCL itself starts the collectives of several communicators in the order of their calls. Else each of
    /// them begins when the one before it has ended.
    pub fn keeps_order(&self) -> bool {
        self.keeps_order
    }

    /// What ranks find each other by: the address of a thread of this process, and a secret.
    ///
    /// # Errors
    /// NCCL's own.
    pub fn new_id(&self) -> Result<[u8; 128], crate::CommError> {
        self.table.unique_id().map_err(|code| {
            let error = self.table.explain(code, None);
            crate::CommError::Kernel(format!("ncclGetUniqueId failed: {error}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_their_numbers() {
        assert_eq!(Version::of_code(22_703), Version::new(2, 27, 3));
        assert_eq!(Version::of_code(22_703).to_string(), "2.27.3");
        assert_eq!(Version::new(2, 32, 0).code(), 23_200);
        // 2.8.3 was 2803.
        assert!(Version::of_code(2_803) < Version::new(2, 18, 0));
    }
}
