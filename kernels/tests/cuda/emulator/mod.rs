//! The emulator itself: what it catches, and what it lets pass.

mod faults;
mod proofs;
mod sound;
