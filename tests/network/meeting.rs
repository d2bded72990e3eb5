//! The rendezvous between machines. Ranks are this program, started again, which does what `tisserand train` does up to
//! the moment when MPI would start, and then goes on meeting.

use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tisserand_collectives::control::Combine;
use tisserand_collectives::{Channel, ControlPlane};
use tisserand_launch::node::Node;
use tisserand_launch::processes;
use tisserand_launch::ranks::Ranks;
use tisserand_launch::world::{self, Agree};
use tisserand_runtime::config::Config;

use super::lab::{GOOD, HOSTS, Lab, Line};
use super::run::{Run, errors};
use super::{END, end};

const PORT: &str = "12345";

/// Longer than any meeting takes on a bad line and a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Not a test but the program of [`rank`].
#[test]
fn a_rank_of_this_program() {
    let Ok(file) = std::env::var("NETWORK_RUN_FILE") else { return };
    let rounds: u64 = std::env::var("NETWORK_ROUNDS").unwrap().parse().unwrap();
    let timeout = format!("run.collective_timeout_s={}", std::env::var("NETWORK_TIMEOUT_S").unwrap());
    let ranks = Ranks::discover(&|name| std::env::var(name).ok()).unwrap();
    let mut node = Node::of(&ranks);
    let config = node.config(|| Config::load(Path::new(&file), &[timeout], None, &|_| None)).unwrap();
    let result = processes::join(&ranks, &mut node, &config, |place, control: Arc<dyn ControlPlane>| {
        if ranks.rank == 0 {
            place.notices.iter().for_each(|notice| eprintln!("notice: {notice}"));
        }
        // As after the first step: from then on ranks are missed in rounds.
        control.progress().note(|activity| activity.step = 1);
        for round in 0..rounds {
            let sum = control.reduce(Channel::Step, Combine::Sum, &[round + ranks.rank as u64])?;
            let expected: u64 = (0..ranks.world_size as u64).map(|rank| round + rank).sum();
            assert_eq!(sum, [expected]);
            if round == 0 {
                eprintln!("met");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(0)
    });
    let code = world::speak(ranks.rank, Agree::Perhaps, result).unwrap_or_else(|error| {
        eprintln!("error: {error}");
        error.exit_code()
    });
    std::process::exit(code.into());
}

/// A rank on its machine.
#[derive(Clone, Copy)]
struct Rank<'a> {
    lab: &'a Lab,
    run: &'a Run,
    world_size: usize,
    rounds: u64,
    timeout_s: u64,
}

impl Rank<'_> {
    fn start(&self, rank: usize) -> Child {
        self.on(rank % HOSTS, rank)
    }

    fn on(&self, host: usize, rank: usize) -> Child {
        let mut command: Command = self.lab.on(host);
        command.arg(std::env::current_exe().unwrap());
        command.args(["--exact", "meeting::a_rank_of_this_program", "--nocapture"]);
        command
            .env("NETWORK_RUN_FILE", &self.run.run_file()[0])
            .env("NETWORK_ROUNDS", self.rounds.to_string());
        command.env("NETWORK_TIMEOUT_S", self.timeout_s.to_string());
        command.env("RANK", rank.to_string()).env("WORLD_SIZE", self.world_size.to_string());
        command.env("LOCAL_RANK", "0").env("LOCAL_WORLD_SIZE", "1");
        command.env("MASTER_ADDR", Lab::address(0)).env("MASTER_PORT", PORT);
        command.spawn().unwrap()
    }
}

fn ranks<'a>(lab: &'a Lab, run: &'a Run) -> Rank<'a> {
    Rank { lab, run, world_size: HOSTS, rounds: 3, timeout_s: 60 }
}

/// All must end with this code; what all of them said.
fn all_end(children: Vec<Child>, code: i32, within: Duration) -> Vec<String> {
    let outputs = children.into_iter().map(|child| end(child, within)).collect::<Vec<_>>();
    let said: Vec<String> = outputs.iter().map(errors).collect();
    for output in &outputs {
        assert_eq!(output.status.code(), Some(code), "{}", said.join("\n--\n"));
    }
    said
}

/// Whatever the order and the line, they meet.
#[test]
fn late_ranks_meet_on_good_and_bad_lines() {
    let lines = [GOOD, Line { delay_ms: 200, loss_percent: 0 }, Line { delay_ms: 5, loss_percent: 20 }];
    std::thread::scope(|scope| {
        for line in lines {
            scope.spawn(move || {
                let (lab, run) = (Lab::new(line), Run::new(&[]));
                let began = Instant::now();
                let ranks = ranks(&lab, &run);
                let mut children = vec![ranks.start(2), ranks.start(3)];
                for rank in [0, 1] {
                    std::thread::sleep(Duration::from_secs(2));
                    children.push(ranks.start(rank));
                }
                for said in all_end(children, 0, PATIENCE) {
                    assert!(said.contains("met\n") && !said.contains("error"), "{said}");
                }
                let Line { delay_ms, loss_percent } = line;
                let took = began.elapsed().as_secs_f64();
                println!("delay {delay_ms} ms, loss {loss_percent} %: {took:.1} s");
            });
        }
    });
}

#[test]
fn a_rank_that_does_not_come_is_named() {
    let (lab, run) = (Lab::new(GOOD), Run::new(&[]));
    let ranks = Rank { timeout_s: 4, ..ranks(&lab, &run) };
    let said = all_end([0, 1, 3].map(|rank| ranks.start(rank)).into(), 1, PATIENCE).concat();
    assert_eq!(said.matches("error: rank 2: ").count(), 1, "{said}");
    assert!(said.contains("did not come to 10.77.0.1:12345 within 4 s (1 of 4 ranks missing: 2)"), "{said}");
}

#[test]
fn another_world_size_is_named_with_both_numbers() {
    let (lab, run) = (Lab::new(GOOD), Run::new(&[]));
    // Short, since one who comes after the refusal finds no secret any more; a launcher would end it.
    let four = Rank { timeout_s: 8, ..ranks(&lab, &run) };
    let five = Rank { world_size: 5, ..four };
    let all = vec![four.start(0), four.start(1), five.start(2), four.start(3)];
    let said = all_end(all, 1, PATIENCE);
    println!("{said:?}");
    let said = &said[0];
    assert_eq!(said.matches("error: ").count(), 1, "{said}");
    assert!(said.contains("rank 2") && said.contains('4') && said.contains('5'), "{said}");
}

/// Garbage, silence, a web browser and a rank of another run: they are turned away, and the others meet.
#[test]
fn strangers_are_turned_away_and_the_ranks_meet() {
    let (lab, run, other) = (Lab::new(GOOD), Run::new(&[]), Run::new(&[]));
    let all = ranks(&lab, &run);
    let zero = all.start(0);
    let strangers = [
        "import os; c.sendall(os.urandom(4096)); time.sleep(30)",
        "time.sleep(30)",
        "c.sendall(b'GET / HTTP/1.1\\r\\n\\r\\n'); c.recv(9)",
    ];
    let mut callers: Vec<Child> = strangers
        .map(|act| {
            let call = format!(
                "import socket, time\nwhile True:\n  try: c = socket.create_connection(('{}', {PORT})); break\n  \
                 except OSError: time.sleep(0.05)\n{act}",
                Lab::address(0)
            );
            lab.on(1).args(["python3", "-c", &call]).spawn().unwrap()
        })
        .into();
    // One of another run, which has a secret of its own: rank 0 of that run, on another machine, has written it.
    let elsewhere = ranks(&lab, &other);
    callers.push(elsewhere.on(1, 0));
    let stray = elsewhere.on(2, 1);
    let said = errors(&end(stray, PATIENCE));
    assert!(said.contains("is not accepted by rank 0") && said.contains("it has another secret"), "{said}");
    let said = all_end(vec![zero, all.start(1), all.start(2), all.start(3)], 0, PATIENCE).concat();
    assert!(said.contains("notice: turned away at the start: 10.77.0."), "{said}");
    assert!(said.contains("another secret"), "{said}");
    for mut caller in callers {
        let _ = caller.kill();
        let _ = caller.wait();
    }
}

#[test]
fn a_port_that_is_taken_is_one_line() {
    let (lab, run) = (Lab::new(GOOD), Run::new(&[]));
    let taker = format!(
        "import socket, time; s = socket.create_server(('', {PORT})); print('here', flush=True); time.sleep(60)"
    );
    let mut taker = lab.on(0).args(["python3", "-c", &taker]).spawn().unwrap();
    let mut here = [0; 5];
    std::io::Read::read_exact(taker.stdout.as_mut().unwrap(), &mut here).unwrap();
    let said = errors(&end(ranks(&lab, &run).start(0), PATIENCE));
    assert_eq!(said.matches("error: ").count(), 1, "{said}");
    let expected = format!("error: rank 0: cannot listen on port {PORT}: ");
    assert!(said.contains(&expected) && said.contains("MASTER_PORT"), "{said}");
    let _ = (taker.kill(), taker.wait());
}

/// A cable that is pulled while the ranks meet, and while they work: those who hear nothing end, and name who it is.
#[test]
fn a_cut_link_ends_all_and_a_short_cut_ends_none() {
    let (lab, run) = (Lab::new(GOOD), Run::new(&[]));
    let long = Rank { rounds: 100_000, ..ranks(&lab, &run) };
    let children: Vec<Child> = (0..HOSTS).map(|rank| long.start(rank)).collect();
    std::thread::sleep(Duration::from_secs(3));
    lab.cut(2);
    std::thread::sleep(Duration::from_secs(3));
    lab.mend(2);
    std::thread::sleep(Duration::from_secs(6));
    lab.cut(2);
    let said = all_end(children, 1, END);
    assert!(said.iter().all(|said| said.contains("met\n")), "{said:?}");
    assert!(said[0].contains("error: rank 2: no sign of life for 8 s"), "{}", said[0]);
    assert_eq!(said[0].matches("rank  host").count(), 1, "{}", said[0]);
    assert!(!said[1].contains("error: "), "{}", said[1]);
    // It is alone, and cannot know who else is there.
    assert!(said[2].contains("rank 0: no sign of life") || !said[2].contains("error: "), "{}", said[2]);
}

/// The one without a way to rank 0 says so.
#[test]
fn a_machine_that_cannot_be_reached_is_named() {
    let (lab, run) = (Lab::new(GOOD), Run::new(&[]));
    lab.cut(1);
    let ranks = Rank { timeout_s: 6, ..ranks(&lab, &run) };
    let children = (0..HOSTS).map(|rank| ranks.start(rank)).collect();
    let said = all_end(children, 1, PATIENCE);
    assert!(said[0].contains("error: rank 1: did not come to 10.77.0.1:12345 within 6 s"), "{}", said[0]);
    assert!(said[1].contains("cannot reach rank 0 at 10.77.0.1:12345 within "), "{}", said[1]);
    assert!(!said[2].contains("error: "), "{}", said[2]);
}
