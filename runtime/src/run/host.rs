//! Which machine this is.

use std::fs;

/// The name of this host, as `hostname` prints it.
pub fn host_name() -> String {
    match nix::unistd::gethostname() {
        Ok(name) => name.to_string_lossy().into_owned(),
        // Fails only where the kernel has none; a name is still needed for locks and tables.
        Err(_) => "localhost".to_owned(),
    }
}

/// What tells process ids apart beyond the host name: the boot (ids start over) and the namespace of
/// process ids (containers). `None` where the system has no `/proc`.
pub fn process_space() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), namespace.display()))
}
