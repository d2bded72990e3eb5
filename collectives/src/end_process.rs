//! The end of a process that must not wait for others.

/// Ends this process with `code`, now: the way out of a communication library waits for other processes, which may be
/// dead, and threads that are inside of its calls are not asked. Standard output keeps no whole line back.
pub fn end_process(code: u8) -> ! {
    // SAFETY: takes no memory of ours and does not return; handlers and destructors that it leaves out are the
    // purpose.
    unsafe { nix::libc::_exit(i32::from(code)) }
}
