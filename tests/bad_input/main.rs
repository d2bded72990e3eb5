//! What the binary says when its input is bad, as a user sees it: one line on standard error that names the
//! file, the key or the value and says what to do, the right exit code, and nothing lost.
//!
//! Each table is a list of [`support::Case`]; [`support::check`] runs one against the built binary in a folder
//! of its own.

mod commands;
mod datasets;
mod run_file;
mod support;
mod unwritable;
mod weights;
