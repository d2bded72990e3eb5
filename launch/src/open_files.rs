//! How many files and sockets the process may have open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// More than anybody needs. Where the limit is far higher, old programs that close all that may be open take minutes.
const ENOUGH: u64 = 1 << 20;

/// As many as the system lets it have. Batch systems often allow 1,024 by default, and more on request; rank 0 has a
/// connection to each rank, every rank an open file for each file of tokens, and the first of a machine three while it
/// opens them for all. If it is refused, or still too few, whoever opens one too many says so.
pub(crate) fn allow_all() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard.min(ENOUGH)
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(ENOUGH), hard);
    }
}
