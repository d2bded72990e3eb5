//! Signals that ask a run to stop at the next step boundary.

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use tisserand_runtime::run::{StopFlag, StopReason};
use tisserand_runtime::{Error, Result};

/// Exit code of a process that control-C ended, as shells expect it.
const INTERRUPTED: i32 = 130;

/// From now on SIGTERM, SIGUSR1, SIGUSR2 and control-C set the flag. A second control-C ends the process at once: the
/// newest checkpoint is complete whenever that happens.
pub fn watch(flag: &StopFlag) -> Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGUSR1, SIGUSR2, SIGINT])
        .map_err(|error| Error::fault(format!("cannot watch for signals: {error}")))?;
    let watched = flag.clone();
    let watch = move || {
        for signal in signals.forever() {
            let reason = match signal {
                SIGTERM => StopReason::Terminate,
                SIGUSR1 => StopReason::User1,
                SIGUSR2 => StopReason::User2,
                _ => StopReason::Interrupt,
            };
            if reason == StopReason::Interrupt {
                if watched.requested().is_some() {
                    std::process::exit(INTERRUPTED);
                }
                eprintln!("stopping after this step, with a checkpoint; control-C again to stop at once");
            }
            watched.request(reason);
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch).map_err(|error| {
        Error::fault(format!("cannot start the thread that watches for signals: {error}"))
    })?;
    Ok(())
}
