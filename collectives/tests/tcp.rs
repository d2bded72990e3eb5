//! What only processes can meet: death, silence, strangers, and ranks that do not come.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::meeting;
use tisserand_collectives::control::{Listener, RankReport, Rendezvous, Secret, Tcp};
use tisserand_collectives::{Channel, ControlPlane, Failure};

/// News of a failure that is known must be everywhere by then.
const SOON: Duration = Duration::from_secs(2);

/// Time in which every rank has sent its progress, and rank 0 the board.
const TWO_BEATS: Duration = Duration::from_millis(1300);

/// How a child knows that it is one: "rank world_size port dead_after_ms".
const VARIABLE: &str = "CONTROL_TEST_RANK";

/// The body of a child: it comes, notes what it does, and waits until it is killed.
#[test]
fn a_rank_in_a_process_of_its_own() {
    let Ok(what) = std::env::var(VARIABLE) else { return };
    let numbers: Vec<u64> = what.split(' ').map(|word| word.parse().unwrap()).collect();
    let [rank, world_size, port, dead_after_ms] = numbers[..] else { panic!("{what}") };
    let mut meeting = meeting(rank as usize, world_size as usize, port as u16);
    meeting.dead_after = Duration::from_millis(dead_after_ms);
    let plane = if rank == 0 {
        let listener = Listener::bind(0).unwrap();
        println!("\nport {}", listener.port());
        listener.accept(&meeting).unwrap()
    } else {
        Tcp::connect(&meeting).unwrap()
    };
    work(&plane);
    // Not where the others wait.
    let _ = plane.barrier(Channel::Save);
}

struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(rank: usize, world_size: usize, port: u16, dead_after: Duration) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_rank_in_a_process_of_its_own", "--nocapture"])
            .env(VARIABLE, format!("{rank} {world_size} {port} {}", dead_after.as_millis()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Process { child, output }
    }

    fn port(&mut self) -> u16 {
        let mut lines = self.output.by_ref().lines().map(Result::unwrap);
        lines.find_map(|line| line.strip_prefix("port ").map(|port| port.parse().unwrap())).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn work(plane: &Tcp) {
    plane.progress().note(|activity| {
        activity.step = 70 + plane.rank() as u64;
        activity.action = Some("backward".into());
    });
    plane.barrier(Channel::Setup).unwrap();
}

/// Ranks of a world of 3 as threads, without the one that is a process. What they met, and their reports.
struct Threads {
    planes: Vec<Tcp>,
    process: Process,
}

impl Threads {
    fn start(process_rank: usize, dead_after: Duration) -> Self {
        let listener = Listener::bind(0).unwrap();
        let mut port = listener.port();
        let mut process = Process::start(process_rank, 3, port, dead_after);
        if process_rank == 0 {
            port = process.port();
        }
        let meeting = |rank| Rendezvous { dead_after, ..meeting(rank, 3, port) };
        let mut listener = Some(listener);
        let planes = thread::scope(|scope| {
            let ranks: Vec<_> = (0..3)
                .filter(|rank| *rank != process_rank)
                .map(|rank| {
                    let listener = if rank == 0 { listener.take() } else { None };
                    scope.spawn(move || {
                        let plane = match listener {
                            Some(listener) => listener.accept(&meeting(0)).unwrap(),
                            None => Tcp::connect(&meeting(rank)).unwrap(),
                        };
                        work(&plane);
                        plane
                    })
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        Threads { planes, process }
    }

    /// All ranks wait for the process; `signal` ends it in some way. The failure, which must be the same
    /// everywhere `within` a time, and who reports what.
    fn meet(self, signal: Signal, within: Duration) -> (Failure, usize, Vec<RankReport>) {
        thread::sleep(TWO_BEATS);
        let met: Vec<_> = thread::scope(|scope| {
            let ranks: Vec<_> = self
                .planes
                .iter()
                .map(|plane| {
                    scope.spawn(move || {
                        let failure = plane.barrier(Channel::Step).unwrap_err();
                        (failure, Instant::now(), plane.report())
                    })
                })
                .collect();
            thread::sleep(Duration::from_millis(50));
            let start = Instant::now();
            self.process.signal(signal);
            let met = ranks.into_iter().map(|rank| rank.join().unwrap());
            met.map(|(failure, when, report)| (failure, when - start, report)).collect()
        });
        for (failure, delay, _) in &met {
            assert_eq!(failure, &met[0].0);
            assert!(*delay < within, "{failure} after {delay:?}");
        }
        let failure = met[0].0.clone();
        let mut reports = met
            .into_iter()
            .zip(&self.planes)
            .filter_map(|((_, _, report), plane)| report.map(|report| (plane.rank(), report)));
        let (reporter, report) = reports.next().unwrap();
        assert!(reports.next().is_none(), "two ranks report");
        (failure, reporter, report)
    }
}

fn assert_reports(reports: &[RankReport], dead: usize, state: &str) {
    assert_eq!(reports.len(), 3);
    for (rank, report) in reports.iter().enumerate() {
        assert_eq!((report.rank, report.activity.step), (rank, 70 + rank as u64), "{reports:?}");
        assert_eq!(report.state, if rank == dead { state } else { "running" }, "{reports:?}");
        assert!(report.host != "-" && report.age_s > 0.5 && report.age_s < 60.0, "{reports:?}");
    }
}

#[test]
fn the_death_of_a_process_is_told_to_all() {
    let threads = Threads::start(2, Rendezvous::DEAD_AFTER);
    let (failure, reporter, reports) = threads.meet(Signal::SIGKILL, SOON);
    assert_eq!(failure, Failure::fault(2, "died: connection closed"));
    assert_eq!(reporter, 0);
    assert_reports(&reports, 2, "died: connection closed");
}

#[test]
fn if_rank_0_dies_rank_1_reports() {
    let threads = Threads::start(0, Rendezvous::DEAD_AFTER);
    let (failure, reporter, reports) = threads.meet(Signal::SIGKILL, SOON);
    assert_eq!(failure, Failure::fault(0, "died: connection closed"));
    assert_eq!(reporter, 1);
    assert_reports(&reports, 0, "died: connection closed");
}

#[test]
fn a_process_that_is_stopped_counts_as_dead_and_one_that_is_slow_does_not() {
    let dead_after = Duration::from_secs(1);
    for (rank, reporter) in [(0, 1), (2, 0)] {
        let threads = Threads::start(rank, dead_after);
        // Longer without a call than a rank may be silent.
        thread::sleep(dead_after * 3 / 2);
        let met = threads.meet(Signal::SIGSTOP, dead_after + SOON);
        assert_eq!(met.0, Failure::fault(rank, "no sign of life for 1 s"));
        assert_eq!(met.1, reporter);
        assert_reports(&met.2, rank, "no sign of life for 1 s");
    }
}

/// What rank 0 of `world_size` and a caller get, if they wait for no more than a second and a half.
fn rank_0_and(world_size: usize, caller: impl FnOnce(u16) -> Rendezvous) -> (Failure, Failure) {
    let listener = Listener::bind(0).unwrap();
    let caller = caller(listener.port());
    thread::scope(|scope| {
        let timeout = Duration::from_millis(1500);
        let caller = scope.spawn(move || Tcp::connect(&caller).err().unwrap());
        let meeting = Rendezvous { timeout, ..meeting(0, world_size, listener.port()) };
        (listener.accept(&meeting).err().unwrap(), caller.join().unwrap())
    })
}

fn assert_words(failure: &Failure, words: &[&str]) {
    let text = failure.to_string();
    assert!(!text.contains('\n'), "{text}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in: {text}");
    }
}

#[test]
fn a_process_with_another_secret_is_turned_away() {
    let mut port = 0;
    let (root, caller) = rank_0_and(2, |free| {
        port = free;
        Rendezvous { secret: Secret::new(b"of another run"), ..meeting(1, 2, free) }
    });
    let at = format!("localhost:{port}");
    assert_words(&caller, &["rank 1", &at, "another secret", "hint"]);
    assert_words(&root, &["rank 1", &at, "1 of 2 ranks missing: 1", "127.0.0.1", "another secret", "hint"]);
}

#[test]
fn a_rank_that_counts_the_ranks_differently_is_turned_away() {
    let (root, caller) = rank_0_and(2, |port| meeting(1, 3, port));
    assert_words(&caller, &["rank 1", "counts 3 ranks, rank 0 counts 2"]);
    assert_words(&root, &["missing: 1", "counts 3 ranks, rank 0 counts 2"]);
}

#[test]
fn ranks_that_do_not_come_are_named_to_those_who_came() {
    let (root, caller) = rank_0_and(4, |port| meeting(2, 4, port));
    assert_words(&root, &["rank 1: did not come", "within 1.5 s", "2 of 4 ranks missing: 1, 3", "hint"]);
    assert_eq!(root, caller);
}

#[test]
fn a_second_process_with_one_rank_is_turned_away_and_the_first_stays() {
    let listener = Listener::bind(0).unwrap();
    let port = listener.port();
    let timeout = Duration::from_secs(20);
    thread::scope(|scope| {
        let root = scope.spawn(move || listener.accept(&meeting(0, 3, port)).unwrap());
        let twins = [(), ()].map(|()| scope.spawn(move || Tcp::connect(&meeting(1, 3, port))));
        // One of the twins ends, so that the third rank comes to a decided matter.
        let start = Instant::now();
        while !twins.iter().any(|twin| twin.is_finished()) && start.elapsed() < timeout {
            thread::sleep(Duration::from_millis(5));
        }
        let last = scope.spawn(move || Tcp::connect(&meeting(2, 3, port)).unwrap());
        let root = root.join().unwrap();
        assert!(root.refused().iter().any(|line| line.contains("already here")), "{:?}", root.refused());
        let twins: Vec<_> = twins.into_iter().map(|twin| twin.join().unwrap()).collect();
        let refused: Vec<_> = twins.iter().filter_map(|twin| twin.as_ref().err()).collect();
        assert_eq!(refused.len(), 1);
        assert_words(refused[0], &["rank 1", "is already here"]);
        drop((root, last.join().unwrap(), twins));
    });
}

#[test]
fn strangers_at_the_port_neither_hold_up_nor_end_the_rendezvous() {
    let listener = Listener::bind(0).unwrap();
    let port = listener.port();
    thread::scope(|scope| {
        let root = scope.spawn(move || listener.accept(&meeting(0, 2, port)).unwrap());
        let silent = TcpStream::connect(("localhost", port)).unwrap();
        let mut talker = TcpStream::connect(("localhost", port)).unwrap();
        talker.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let brief = TcpStream::connect(("localhost", port)).unwrap();
        drop(brief);
        thread::sleep(Duration::from_millis(200));
        let start = Instant::now();
        let other = Tcp::connect(&meeting(1, 2, port)).unwrap();
        let root = root.join().unwrap();
        assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
        assert!(root.refused().iter().any(|line| line.contains("something else")), "{:?}", root.refused());
        let sums = [root, other].map(|plane| scope.spawn(move || plane.sum(Channel::Step, 1).unwrap()));
        assert_eq!(sums.map(|sum| sum.join().unwrap()), [2, 2]);
        drop(silent);
    });
}

#[test]
fn without_rank_0_the_message_says_where_it_was_looked_for() {
    // A port that was free a moment ago.
    let port = Listener::bind(0).unwrap().port();
    let timeout = Duration::from_millis(300);
    let failure = Tcp::connect(&Rendezvous { timeout, ..meeting(1, 2, port) }).err().unwrap();
    assert_words(&failure, &["rank 1", &format!("localhost:{port}"), "0.3 s", "refused", "hint"]);
}

#[test]
fn a_port_that_is_taken_and_a_rank_that_cannot_be_are_refused() {
    let listener = Listener::bind(0).unwrap();
    let port = listener.port();
    let failure = Tcp::connect(&meeting(0, 2, port)).err().unwrap();
    assert_words(&failure, &["rank 0", &format!("port {port}"), "in use", "MASTER_PORT"]);
    let failure = Tcp::connect(&meeting(2, 2, port)).err().unwrap();
    assert_words(&failure, &["rank 2", "not below the number of ranks, 2"]);
    assert_eq!(failure.exit_code, 2);
}

#[test]
fn a_call_that_no_message_holds_is_a_failure_and_no_hang() {
    let planes = support::tcp(2);
    let size = 256 << 20;
    thread::scope(|scope| {
        for plane in &planes {
            scope.spawn(move || {
                let bytes = vec![0; if plane.rank() == 1 { size } else { 1 }];
                let failure = plane.gather(Channel::Step, bytes).unwrap_err();
                assert_words(&failure, &["rank 1", "268435456 bytes"]);
            });
        }
    });
}
