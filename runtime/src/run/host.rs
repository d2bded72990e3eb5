//! Which machine this is.

use std::fs;

pub use tisserand_collectives::control::host_name;

/// What tells process ids apart beyond the host name: the boot (ids start over) and the namespace of
/// process ids (containers). `None` where the system has no `/proc`.
pub fn process_space() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), namespace.display()))
}
