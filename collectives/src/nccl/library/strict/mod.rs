//! A library that stands for libnccl and is strict: it notes every use of its functions that NCCL forbids. Made by the
//! system's C compiler; needs no GPU.

use std::ffi::{CStr, c_char, c_int};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::comm::Comm;
use super::operation::{Operation, Typed};
use super::{Library, Search};
use crate::nccl::fabric::{Ended, Place};
use crate::{CommError, Failure, Progress};

/// One for each test: it counts for its whole process.
struct Strict {
    file: PathBuf,
    library: Library,
    itself: libloading::Library,
}

impl Strict {
    fn build(test: &str) -> Self {
        let file = std::env::temp_dir().join(format!("tisserand-strict-{test}-{}.so", std::process::id()));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/nccl/library/strict/strict.c");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let mut command = Command::new(&compiler);
        command.args(["-std=gnu11", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"]);
        let built = command.arg(&file).arg(source).status();
        assert!(built.is_ok_and(|status| status.success()), "{compiler} does not compile {source}");
        let library = Library::load(&Search { file: Some(file.clone()), ..Search::default() }).unwrap();
        // SAFETY: the library has no initialisers.
        let itself = unsafe { libloading::Library::new(&file) }.unwrap();
        Strict { file, library, itself }
    }

    fn text(&self, name: &str) -> String {
        // SAFETY: both functions of this kind take nothing and return a string that stays.
        let text = unsafe {
            let function =
                self.itself.get::<unsafe extern "C" fn() -> *const c_char>(name.as_bytes()).unwrap();
            CStr::from_ptr(function())
        };
        text.to_str().unwrap().to_owned()
    }

    fn never_ready(&self) {
        // SAFETY: sets one variable.
        unsafe {
            self.itself.get::<unsafe extern "C" fn(c_int)>(b"strictNeverReady").unwrap()(1);
        }
    }

    fn place(&self, axis: &str, timeout: Duration) -> Place {
        let (ended, progress) = (Arc::<Ended>::default(), Progress::default());
        Place { axis: axis.into(), rank: 0, size: 2, ended, timeout, progress }
    }

    fn start(&self, place: Place, letter: u8) -> Comm {
        Comm::init(&self.library, place, &[letter; 128]).unwrap()
    }
}

impl Drop for Strict {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.file));
        if !std::thread::panicking() {
            assert_eq!(self.text("strictWrongs"), "");
        }
    }
}

const LONG: Duration = Duration::from_secs(60);

fn carry_out(comm: &Comm, operations: &[Typed]) -> Result<(), CommError> {
    // SAFETY: this library looks at neither stream nor addresses.
    unsafe { comm.carry_out(operations, std::ptr::null_mut()) }
}

fn gather() -> Typed {
    Typed { operation: Operation::AllGather { from: 0, to: 0, len: 1 }, type_code: 7 }
}

#[test]
fn communicators_take_turns_and_end_in_order() {
    let strict = Strict::build("turns");
    let comms = [b'a', b'b'].map(|letter| strict.start(strict.place("axis", LONG), letter));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            comms.iter().for_each(|comm| carry_out(comm, &[gather()]).unwrap());
        }
        // As the thread that watches does.
        let watch = scope.spawn(|| (0..40).all(|_| comms.iter().all(|comm| comm.fault().is_none())));
        comms.iter().for_each(|comm| carry_out(comm, &[gather()]).unwrap());
        assert!(watch.join().unwrap());
    });
    comms.iter().for_each(Comm::end);
    assert!(comms.iter().all(|comm| comm.fault().is_none()), "one that has ended well has no fault");
    drop(comms);
    let turns = ["all_gather/7:a end:a all_gather/7:b end:b"; 4].join(" ");
    let calls = format!("init:a init:b {turns} finalize:a destroy:a finalize:b destroy:b");
    assert_eq!(strict.text("strictCalls"), calls);
}

#[test]
fn messages_of_two_types_go_together() {
    let strict = Strict::build("types");
    let comm = strict.start(strict.place("pp", LONG), b'a');
    let send = Typed { operation: Operation::Send { at: 0, len: 1, peer: 1 }, type_code: 9 };
    let recv = Typed { operation: Operation::Recv { at: 0, len: 1, peer: 1 }, type_code: 7 };
    carry_out(&comm, &[recv, send]).unwrap();
    comm.end();
    drop(comm);
    assert_eq!(strict.text("strictCalls"), "init:a recv/7:a send/9:a end:a finalize:a destroy:a");
}

#[test]
fn an_abort_reaches_a_call_under_way_and_nothing_follows_it() {
    let strict = Strict::build("abort");
    let place = strict.place("tp", LONG);
    let ended = Arc::clone(&place.ended);
    let comm = strict.start(place, b'a');
    strict.never_ready();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| carry_out(&comm, &[gather()]));
        std::thread::sleep(Duration::from_millis(50));
        ended.set(Failure::fault(1, "died: test"));
        comm.abort();
        assert_eq!(call.join().unwrap().err().unwrap().to_string(), "rank 1: died: test");
    });
    assert_eq!(carry_out(&comm, &[gather()]).err().unwrap().to_string(), "rank 1: died: test");
    assert!(comm.fault().is_none());
    comm.end();
    drop(comm);
    assert_eq!(strict.text("strictCalls"), "init:a all_gather/7:a end:a abort:a");
}

#[test]
fn nothing_begins_once_there_is_a_reason_to_end() {
    let strict = Strict::build("reason");
    let place = strict.place("tp", LONG);
    let ended = Arc::clone(&place.ended);
    let comm = strict.start(place, b'a');
    ended.set(Failure::fault(1, "died: test"));
    assert!(carry_out(&comm, &[gather()]).is_err());
    comm.end();
    drop(comm);
    assert_eq!(strict.text("strictCalls"), "init:a abort:a");
}

#[test]
fn what_never_ends_is_given_up_with_its_name() {
    let strict = Strict::build("late");
    let began = Instant::now();
    strict.never_ready();
    let place = strict.place("dp_shard", Duration::from_millis(200));
    let error = Comm::init(&strict.library, place, &[b'a'; 128]).err().unwrap().to_string();
    assert!(error.starts_with("dp_shard: ncclCommInitRankConfig has not ended within 0 s"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(strict.text("strictCalls"), "init:a abort:a");
}
