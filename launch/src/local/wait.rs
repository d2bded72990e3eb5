//! Until all ranks have ended: signals are passed on, and one failure ends all.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use tisserand_runtime::{Error, Result};

use super::desk::Desk;
use super::lines::Speaker;
use super::start::Started;

/// Exit code of a run that stopped early with a checkpoint. No failure: all ranks of a run come to it together.
const STOPPED: u8 = 75;

/// How often signals and processes are looked at.
const LOOK: Duration = Duration::from_millis(20);

/// The signals that are passed on; from now on they do nothing else.
///
/// # Errors
/// Of the system.
pub(super) fn signals() -> Result<Signals> {
    Signals::new([SIGINT, SIGTERM, SIGUSR1, SIGUSR2])
        .map_err(|error| Error::fault(format!("cannot watch for signals: {error}")))
}

/// Waits for all processes; the exit code of the launch.
///
/// # Errors
/// A process that cannot be waited for.
pub(super) fn until_all_ended(
    running: Vec<Started>,
    desk: &Desk,
    mut signals: Signals,
    grace: Duration,
) -> Result<u8> {
    let mut wait = Wait { running, desk, stopped: false, failed: None };
    loop {
        for signal in signals.pending() {
            if let Ok(signal) = Signal::try_from(signal) {
                wait.send(signal);
            }
        }
        let fails_now = wait.look()?;
        match wait.failed {
            _ if wait.running.is_empty() => return Ok(wait.code()),
            Some(_) if fails_now => wait.send(Signal::SIGTERM),
            Some((_, since)) if since.elapsed() >= grace => wait.kill(),
            _ => {}
        }
        std::thread::sleep(LOOK);
    }
}

struct Wait<'a> {
    running: Vec<Started>,
    desk: &'a Desk,
    /// A rank has stopped early.
    stopped: bool,
    /// Code of the first failure, and when it was seen.
    failed: Option<(u8, Instant)>,
}

impl Wait<'_> {
    /// Takes leave of the processes that have ended. Whether one of them is the first that failed.
    fn look(&mut self) -> Result<bool> {
        let had_failed = self.failed.is_some();
        let mut at = 0;
        while at < self.running.len() {
            let process = &mut self.running[at];
            let looked = process.child.try_wait();
            match looked.map_err(|error| Error::fault(format!("cannot wait for a rank: {error}")))? {
                None => at += 1,
                Some(status) => {
                    let who = self.running.swap_remove(at).who;
                    self.note(who, status);
                }
            }
        }
        Ok(self.failed.is_some() && !had_failed)
    }

    fn note(&mut self, who: Speaker, status: ExitStatus) {
        // Exit codes have eight bits.
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()) as u8;
        match code {
            0 => {}
            STOPPED => self.stopped = true,
            _ if self.failed.is_some() => {}
            code => {
                self.failed = Some((code, Instant::now()));
                // Whoever exits says why; who is ended by a signal cannot. mpirun tells by its code that one was.
                match (who, status.signal()) {
                    (Speaker::Rank(rank), Some(signal)) => {
                        eprintln!(
                            "error: rank {rank} was ended by signal {signal}; the others are ended too"
                        );
                    }
                    (Speaker::Mpirun, None) if code > 128 => {
                        let signal = code - 128;
                        eprintln!(
                            "error: mpirun says that a rank was ended by signal {signal}, and ends the others"
                        );
                    }
                    _ => {}
                }
            }
        }
    }

    /// To every rank. mpirun has its own mind about signals, so its ranks get them themselves once they are known.
    fn send(&self, signal: Signal) {
        let own = || self.running.iter().map(|process| process.child.id().cast_signed()).collect();
        let by_mpirun = self.running.iter().any(|process| process.who == Speaker::Mpirun);
        let mut pids: Vec<i32> = if by_mpirun { self.desk.pids() } else { own() };
        if pids.is_empty() {
            pids = own();
        }
        for pid in pids {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// With what they have started: each has a process group of its own.
    fn kill(&self) {
        for process in &self.running {
            let _ = killpg(Pid::from_raw(process.child.id().cast_signed()), Signal::SIGKILL);
        }
    }

    fn code(&self) -> u8 {
        match self.failed {
            Some((code, _)) => code,
            None if self.stopped => STOPPED,
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::super::lines::Printer;
    use super::super::start::spawn;
    use super::*;

    /// The code of ranks that are shells with these scripts, and how long they took.
    fn code_of(scripts: &[&str], grace: Duration) -> (u8, Duration) {
        // Desks are named by process, and tests are threads of one.
        static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _one = ONE.lock();
        let desk = Desk::open(Printer::new(true)).unwrap();
        let start = |(rank, script): (usize, &&str)| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).stderr(Stdio::null());
            spawn(command, Speaker::Rank(rank), desk.path()).unwrap()
        };
        let running = scripts.iter().enumerate().map(start).collect();
        let (began, signals) = (Instant::now(), Signals::new::<_, &i32>([]).unwrap());
        let code = until_all_ended(running, &desk, signals, grace).unwrap();
        (code, began.elapsed())
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn all_that_end_well_are_waited_for() {
        assert_eq!(code_of(&["exit 0", "sleep 0.2"], LONG).0, 0);
        assert_eq!(code_of(&["exit 75", "sleep 0.2; exit 75"], LONG).0, 75);
    }

    #[test]
    fn the_first_failure_ends_the_others_and_gives_the_code() {
        let (code, took) = code_of(&["sleep 50", "sleep 0.2; exit 7", "sleep 50"], LONG);
        assert!(code == 7 && took < LONG / 2, "{code} {took:?}");
        let (code, took) = code_of(&["sleep 50", "kill -9 $$"], LONG);
        assert!(code == 137 && took < LONG / 2, "{code} {took:?}");
        // Who is told to end and then fails is no first failure.
        let (code, _) =
            code_of(&["trap 'exit 9' TERM; while :; do sleep 0.05; done", "sleep 0.3; exit 7"], LONG);
        assert_eq!(code, 7);
    }

    #[test]
    fn who_does_not_end_is_made_to() {
        let deaf = "trap '' TERM; while :; do sleep 0.05; done";
        let (code, took) = code_of(&[deaf, "sleep 0.2; exit 3"], Duration::from_millis(300));
        assert!(code == 3 && took < LONG / 2, "{code} {took:?}");
    }
}
