//! Which machine this is.

/// The name of this host, as `hostname` prints it.
pub fn host_name() -> String {
    match nix::unistd::gethostname() {
        Ok(name) => name.to_string_lossy().into_owned(),
        // Fails only where the kernel has none; a name is still needed for tables.
        Err(_) => "localhost".to_owned(),
    }
}
