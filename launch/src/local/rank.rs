//! A rank's side of the desk.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::unistd::{dup2_stderr, dup2_stdout};
use signal_hook::consts::SIGTERM;
use signal_hook::low_level::raise;

/// Connects standard output and standard error to the desk, and asks this process to stop if the launcher dies.
pub(super) fn report(desk: &Path, rank: usize) -> io::Result<()> {
    let call = |stream: &str| -> io::Result<UnixStream> {
        let mut socket = UnixStream::connect(desk)?;
        socket.write_all(format!("{stream} {rank} {}\n", std::process::id()).as_bytes())?;
        Ok(socket)
    };
    let (out, err) = (call("out")?, call("err")?);
    dup2_stdout(&out)?;
    dup2_stderr(&err)?;
    std::thread::Builder::new().name("launcher".to_owned()).spawn(move || stop_with_it(err)).map(drop)
}

/// Waits for the end of the launcher, which never sends anything.
fn stop_with_it(mut desk: UnixStream) {
    let _ = desk.read(&mut [0]);
    // What is printed to nobody is an error, and a panic where it is an error message; the run is to end in order.
    if let Ok(nobody) = File::options().write(true).open("/dev/null") {
        let _ = (dup2_stdout(&nobody), dup2_stderr(&nobody));
    }
    let _ = desk.shutdown(Shutdown::Both);
    let _ = raise(SIGTERM);
}
