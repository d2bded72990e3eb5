//! Every control plane, by one body: rounds, failures, reports. What only TCP can meet is in `tcp.rs`.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::{again, each_rank, impatient, worlds};
use tisserand_collectives::control::Combine;
use tisserand_collectives::{Channel, Failure, Meeting};

/// News of a failure that is known must be everywhere by then.
const SOON: Duration = Duration::from_secs(2);

#[test]
fn words_are_combined_at_every_rank() {
    for (name, world) in worlds() {
        let size = world.len() as u64;
        each_rank(world, |plane| {
            let rank = plane.rank() as u64;
            let words = plane.reduce(Channel::Step, Combine::Sum, &[rank, 1, u64::MAX]).unwrap();
            assert_eq!(words, [size * (size - 1) / 2, size, 0_u64.wrapping_sub(size)], "{name}");
            let words = plane.reduce(Channel::Step, Combine::Max, &[rank, 7 - rank.min(7)]).unwrap();
            assert_eq!(words, [size - 1, 7], "{name}");
            assert_eq!(plane.sum(Channel::Save, 3).unwrap(), 3 * size, "{name}");
            assert_eq!(plane.max(Channel::Setup, rank).unwrap(), size - 1, "{name}");
        });
    }
}

#[test]
fn rank_0_gathers_in_the_order_of_ranks_and_is_heard_by_all() {
    for (name, world) in worlds() {
        let size = world.len();
        each_rank(world, |plane| {
            let rank = plane.rank();
            // Different lengths, one of them nothing.
            let gathered = plane.gather(Channel::Step, vec![rank as u8; rank]).unwrap();
            let all = (0..size).map(|rank| vec![rank as u8; rank]).collect::<Vec<_>>();
            assert_eq!(gathered, (rank == 0).then_some(all), "{name}");
            let large = vec![5; 3 << 20];
            let mine = if rank == 0 { large.clone() } else { vec![9] };
            assert_eq!(plane.broadcast(Channel::Setup, mine).unwrap(), large, "{name}");
        });
    }
}

#[test]
fn a_barrier_holds_everybody_until_the_last_has_come() {
    for (name, world) in worlds() {
        let size = world.len();
        let came = AtomicUsize::new(0);
        each_rank(world, |plane| {
            for round in 1..=50 {
                came.fetch_add(1, Ordering::SeqCst);
                plane.barrier(Channel::Step).unwrap();
                assert!(came.load(Ordering::SeqCst) >= round * size, "{name}");
            }
        });
    }
}

#[test]
fn channels_of_two_threads_a_rank_interleave_freely() {
    for (name, world) in worlds() {
        let size = world.len() as u64;
        each_rank(world, |plane| {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for round in 0..200 {
                        let sum = plane.sum(Channel::Step, round).unwrap();
                        assert_eq!(sum, round * size, "{name}");
                    }
                });
                scope.spawn(|| {
                    for round in 0..70_u8 {
                        let gathered = plane.gather(Channel::Save, vec![round, plane.rank() as u8]).unwrap();
                        let last = gathered.map(|all| all.last().cloned());
                        let expected = (plane.rank() == 0).then_some(Some(vec![round, size as u8 - 1]));
                        assert_eq!(last, expected, "{name}");
                    }
                });
            });
        });
    }
}

#[test]
fn ranks_that_call_different_things_are_all_told_who_called_what() {
    for (name, world) in worlds().into_iter().filter(|(_, world)| world.len() > 1) {
        let last = world.len() - 1;
        let all_passed = std::sync::Barrier::new(world.len());
        let failures = each_rank(world, |plane| {
            plane.barrier(Channel::Step).unwrap();
            // The failure below must not overtake the barrier on a rank that is slow.
            all_passed.wait();
            if plane.rank() == last {
                plane.reduce(Channel::Step, Combine::Sum, &[1, 2]).unwrap_err()
            } else {
                plane.gather(Channel::Step, vec![]).unwrap_err()
            }
        });
        let text = failures[0].to_string();
        for words in [format!("rank {last}"), "a sum of 2 words".into(), "a gather".into(), "round 1".into()]
        {
            assert!(text.contains(&words), "{name}: {text}");
        }
        assert!(failures.iter().all(|failure| *failure == failures[0]), "{name}: {failures:?}");
    }
}

#[test]
fn a_failure_wakes_every_call_calls_each_hook_once_and_is_reported_once() {
    for (name, world) in worlds() {
        let (size, last) = (world.len(), world.len() - 1);
        let failure = Failure { exit_code: 2, ..Failure::fault(last, "loss is not finite") };
        let reports = each_rank(world, |plane| {
            let hooks = Arc::new(AtomicUsize::new(0));
            let hook = || {
                let (hooks, failure) = (Arc::clone(&hooks), failure.clone());
                Box::new(move |known: &Failure| {
                    assert_eq!(*known, failure);
                    hooks.fetch_add(1, Ordering::SeqCst);
                })
            };
            plane.on_failure(hook());
            plane.progress().note(|activity| {
                activity.step = 40 + plane.rank() as u64;
                activity.action = Some("forward".into());
            });
            plane.barrier(Channel::Setup).unwrap();
            assert_eq!((plane.failure(), plane.report()), (None, None), "{name}");
            let start = Instant::now();
            if plane.rank() == last {
                std::thread::sleep(Duration::from_millis(50));
                plane.fail(failure.clone());
                // Its echo on another rank, or here, changes nothing.
                plane.fail(Failure::fault(0, "something else"));
            } else {
                std::thread::scope(|scope| {
                    scope.spawn(|| assert_eq!(plane.barrier(Channel::Step).unwrap_err(), failure));
                    scope.spawn(|| assert_eq!(plane.sum(Channel::Save, 1).unwrap_err(), failure));
                });
            }
            assert!(start.elapsed() < SOON, "{name}: {:?}", start.elapsed());
            assert_eq!(plane.failure(), Some(failure.clone()), "{name}");
            assert_eq!(plane.gather(Channel::Step, vec![]).unwrap_err(), failure, "{name}");
            // Hooks run after the waiting calls are woken.
            while hooks.load(Ordering::SeqCst) == 0 && start.elapsed() < SOON {
                std::thread::sleep(Duration::from_millis(1));
            }
            plane.on_failure(hook());
            assert_eq!(hooks.load(Ordering::SeqCst), 2, "{name}");
            let report = plane.report();
            assert_eq!(plane.report(), None, "{name}");
            report
        });
        let reports: Vec<_> = reports.into_iter().flatten().collect();
        if size == 1 && name == "memory" {
            // The only one that could say it is the one that failed, and its error says it.
            assert!(reports.is_empty());
            continue;
        }
        assert_eq!(reports.len(), 1, "{name} of {size}");
        for (rank, report) in reports[0].iter().enumerate() {
            assert_eq!((report.rank, report.activity.step), (rank, 40 + rank as u64), "{name}");
            let state = if rank == last { "failed: loss is not finite" } else { "running" };
            assert_eq!(report.state, state, "{name}");
            assert!(!report.host.is_empty() && report.host != "-", "{name}: {report:?}");
            assert!(report.age_s < 2.0, "{name}: {report:?}");
        }
    }
}

#[test]
fn a_rank_that_ends_early_fails_those_who_wait_for_it_and_nobody_else() {
    for (name, world) in worlds().into_iter().filter(|(_, world)| world.len() > 1) {
        for leaver in [0, world.len() - 1] {
            let world = support::again(name, world.len());
            let mut seats: Vec<_> = world.into_iter().map(Some).collect();
            let gone = seats[leaver].take();
            let stay: support::World = seats.into_iter().flatten().collect();
            let looked = std::sync::Barrier::new(stay.len());
            drop(gone);
            each_rank(stay, |plane| {
                // That it left is no failure until somebody wants something of it.
                assert_eq!(plane.failure(), None, "{name}");
                looked.wait();
                let failure = plane.barrier(Channel::Step).unwrap_err();
                assert_eq!(failure.rank, leaver, "{name}: {failure}");
                assert!(failure.cause.contains("left"), "{name}: {failure}");
            });
        }
    }
}

#[test]
fn a_thread_that_panics_is_a_death_that_all_hear_of() {
    for (name, world) in worlds().into_iter().filter(|(_, world)| world.len() > 1) {
        let last = world.len() - 1;
        let mut failures = Vec::new();
        std::thread::scope(|scope| {
            let handles: Vec<_> = world
                .into_iter()
                .map(|plane| {
                    scope.spawn(move || {
                        if plane.rank() == last {
                            // Unwinds without the noise of a panic.
                            std::panic::resume_unwind(Box::new("on purpose"));
                        }
                        plane.barrier(Channel::Step).unwrap_err()
                    })
                })
                .collect();
            failures.extend(handles.into_iter().filter_map(|handle| handle.join().ok()));
        });
        assert_eq!(failures, vec![Failure::fault(last, "died: panicked"); last], "{name}");
    }
}

/// A rank that lives and hangs, in a file system, say, between two collectives.
#[test]
fn a_rank_that_does_not_come_to_a_round_in_a_step_is_late_and_named() {
    const PATIENCE: Duration = Duration::from_millis(300);
    for (name, late) in [("memory", 0), ("memory", 2), ("tcp", 0), ("tcp", 2)] {
        let failures = each_rank(impatient(name, 3, PATIENCE), |plane| {
            // Before the first step nobody is late.
            if plane.rank() == late {
                std::thread::sleep(2 * PATIENCE);
            }
            plane.barrier(Channel::Step).unwrap();
            plane.progress().note(|activity| activity.step = 1);
            plane.barrier(Channel::Step).unwrap();
            let came = Instant::now();
            if plane.rank() == late {
                std::thread::sleep(6 * PATIENCE);
            } else {
                let failure = plane.barrier(Channel::Step).unwrap_err();
                assert!(came.elapsed() < 4 * PATIENCE, "{name}, rank {late}: {:?}", came.elapsed());
                assert!(failure.cause.contains("run.collective_timeout_s"), "{name}: {failure}");
            }
            plane.failure().unwrap()
        });
        assert!(failures.iter().all(|failure| *failure == failures[0]), "{name}: {failures:?}");
        assert_eq!((failures[0].rank, failures[0].exit_code), (late, 1), "{name}: {}", failures[0]);
        assert!(failures[0].cause.starts_with("late: rank "), "{name}: {}", failures[0]);
    }
}

#[test]
fn some_ranks_meet_and_the_others_need_not_know() {
    for (name, world) in worlds() {
        let size = world.len();
        each_rank(world, |plane| {
            let me = plane.rank();
            // Odd and even ranks, at the same time.
            let members: Arc<[usize]> = (0..size).filter(|rank| rank % 2 == me % 2).collect();
            let meetings: Vec<Meeting> = (0..3)
                .map(|i| Meeting { number: 10 * i + me as u64 % 2, members: Arc::clone(&members) })
                .collect();
            for meeting in &meetings {
                plane.bring(meeting, vec![me as u8; 1 + meeting.number as usize]);
            }
            // In another order than brought.
            for meeting in meetings.iter().rev() {
                let brought = plane.brought(meeting, "a test", Duration::from_secs(20)).unwrap();
                let expected: Vec<Vec<u8>> =
                    members.iter().map(|rank| vec![*rank as u8; 1 + meeting.number as usize]).collect();
                assert_eq!(brought, expected, "{name}");
            }
            // Rank 0, by which all meet, stays to the end.
            plane.barrier(Channel::Step).unwrap();
        });
    }
}

#[test]
fn who_does_not_come_to_a_meeting_is_named() {
    for name in ["memory", "tcp"] {
        // Rank 0 is no member: it must answer all the same.
        let failures = each_rank(again(name, 4), |plane| {
            let members: Arc<[usize]> = Arc::new([1, 2, 3]);
            let meeting = Meeting { number: 7, members };
            if plane.rank() % 2 == 1 {
                plane.bring(&meeting, vec![]);
                let patience = Duration::from_millis(200);
                return Some(plane.brought(&meeting, "tp all_gather #3", patience).unwrap_err());
            }
            // A rank that ends would be named for that.
            while plane.failure().is_none() {
                std::thread::sleep(Duration::from_millis(5));
            }
            None
        });
        for failure in failures.into_iter().flatten() {
            assert_eq!(failure.rank, 2, "{name}: {failure}");
            let text = failure.to_string();
            for word in ["(from run.collective_timeout_s) in tp all_gather #3", "for rank 2"] {
                assert!(text.contains(word), "{name}: {text}");
            }
        }
    }
}
