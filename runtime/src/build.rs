//! What this program was built from.

/// Version of the program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit, with `-dirty` behind it where sources differed from it; `None` where the build did not know it (see
/// the crate's `build.rs`: development builds do not ask).
pub const GIT_COMMIT: Option<&str> = option_env!("TISSERAND_GIT_COMMIT");

/// The compiler, as it names itself.
pub const RUSTC: Option<&str> = option_env!("TISSERAND_RUSTC");

/// How it was built, in words.
pub const PROFILE: &str = if cfg!(debug_assertions) { "development" } else { "release" };
