//! A rank's trace as Perfetto and `chrome://tracing` read it: `docs/traces.md`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use tisserand_collectives::trace::{CollectiveId, Event, Kept, What};

/// Threads of the trace: the rank's own two, then one per communicator.
const COMPUTE: usize = 0;
const WAITS: usize = 1;
const COMMUNICATORS: usize = 2;

/// A traced step, from the call of the engine to its return.
#[derive(Clone, Copy, Debug)]
pub struct StepSpan {
    /// Number of the step, from 1.
    pub step: u64,
    /// When it began.
    pub begin: Instant,
    /// When it ended.
    pub end: Instant,
}

/// Two clocks, read at the same moment.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// The clock of events.
    pub instant: Instant,
    /// The clock that ranks have in common.
    pub wall: SystemTime,
}

impl Clocks {
    /// Reads them.
    pub fn now() -> Self {
        Clocks { instant: Instant::now(), wall: SystemTime::now() }
    }

    /// Microseconds since midnight (UTC) of the day of `wall`: few enough that an f64 keeps nanoseconds.
    fn timestamp_us(&self, instant: Instant) -> f64 {
        const DAY_NS: u128 = 86_400_000_000_000;
        let since_epoch = self.wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let midnight = (since_epoch.as_nanos() % DAY_NS) as i128;
        let after = instant.saturating_duration_since(self.instant).as_nanos() as i128;
        let before = self.instant.saturating_duration_since(instant).as_nanos() as i128;
        (midnight + after - before) as f64 / 1e3
    }
}

/// The file of one rank: an array with one event per line.
pub fn chrome(rank: usize, clocks: Clocks, steps: &[StepSpan], kept: &Kept) -> String {
    let mut events: Vec<(Instant, Value)> = Vec::with_capacity(steps.len() + kept.events.len());
    let complete = |name: String,
                    category: &str,
                    thread: usize,
                    begin: Instant,
                    end: Instant,
                    args: Value| {
        let (ts, dur) = (clocks.timestamp_us(begin), (end - begin).as_nanos() as f64 / 1e3);
        json!({
            "name": name, "cat": category, "ph": "X", "pid": rank, "tid": thread, "ts": ts, "dur": dur, "args": args,
        })
    };
    for StepSpan { step, begin, end } in steps {
        let name = format!("step {step}");
        events.push((*begin, complete(name, "step", COMPUTE, *begin, *end, json!({ "step": step }))));
    }
    let mut streams: BTreeMap<usize, Communicator<'_>> = BTreeMap::new();
    for event in &kept.events {
        let Event { what, end, .. } = event;
        let mut begin = event.begin;
        let title =
            event.unit.as_ref().map_or(event.name.to_owned(), |unit| format!("{} {unit}", event.name));
        let mut args = serde_json::Map::new();
        if let Some(unit) = &event.unit {
            args.insert("unit".to_owned(), json!(**unit));
        }
        let (title, category, thread) = match what {
            What::Action { micro_batch } => {
                if let Some(micro_batch) = micro_batch {
                    args.insert("micro_batch".to_owned(), json!(micro_batch));
                }
                (title, "action", COMPUTE)
            }
            What::Wait(id) => {
                describe(id, &mut args);
                (format!("wait for {title}"), "wait", WAITS)
            }
            What::Collective { id, payload_bytes } => {
                describe(id, &mut args);
                args.insert("payload_bytes".to_owned(), json!(payload_bytes));
                let stream = streams.entry(id.stream).or_insert_with(|| Communicator::new(id));
                begin = stream.next(event);
                (title, "collective", COMMUNICATORS + id.stream)
            }
        };
        events.push((begin, complete(title, category, thread, begin, *end, Value::Object(args))));
    }
    events.sort_by_key(|(begin, _)| *begin);
    let mut lines = names(rank, &streams);
    lines.extend(events.into_iter().map(|(_, event)| event.to_string()));
    format!("[\n{}\n]\n", lines.join(",\n"))
}

fn describe(id: &CollectiveId, args: &mut serde_json::Map<String, Value>) {
    args.insert("axis".to_owned(), json!(*id.axis));
    args.insert("sequence".to_owned(), json!(id.sequence));
}

/// What is seen of a communicator.
struct Communicator<'a> {
    axis: &'a str,
    /// Kinds of its collectives, in the order of their first.
    kinds: Vec<&'static str>,
    last_end: Option<Instant>,
}

impl<'a> Communicator<'a> {
    fn new(id: &'a CollectiveId) -> Self {
        Communicator { axis: &id.axis, kinds: Vec::new(), last_end: None }
    }

    /// When the communicator turned to its next collective: when that was asked for, or when the one before it
    /// ended.
    fn next(&mut self, event: &Event) -> Instant {
        if !self.kinds.contains(&event.name) {
            self.kinds.push(event.name);
        }
        let begin = self.last_end.map_or(event.begin, |last_end| last_end.max(event.begin));
        self.last_end = Some(event.end);
        begin.min(event.end)
    }
}

/// Events that name the rank and its threads.
fn names(rank: usize, streams: &BTreeMap<usize, Communicator<'_>>) -> Vec<String> {
    let of_thread = |thread: usize, name: &str| {
        let args = json!({ "name": name });
        json!({ "name": "thread_name", "ph": "M", "pid": rank, "tid": thread, "args": args }).to_string()
    };
    let args = json!({ "name": format!("rank {rank}") });
    let process = json!({ "name": "process_name", "ph": "M", "pid": rank, "args": args }).to_string();
    let mut names = vec![process, of_thread(COMPUTE, "compute"), of_thread(WAITS, "waits")];
    for (stream, communicator) in streams {
        let name = format!("{}: {}", communicator.axis, communicator.kinds.join(", "));
        names.push(of_thread(COMMUNICATORS + stream, &name));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_a_communicator_follow_each_other() {
        let clocks = Clocks::now();
        let at = |us: u64| clocks.instant + Duration::from_micros(us);
        let collective = |name, sequence, begin, end| {
            let id = CollectiveId { stream: 2, axis: "dp_shard".into(), sequence };
            let what = What::Collective { id, payload_bytes: 4096 };
            Event { name, unit: Some("block 1".into()), what, begin: at(begin), end: at(end) }
        };
        let wait = What::Wait(CollectiveId { stream: 2, axis: "dp_shard".into(), sequence: 0 });
        let events = vec![
            collective("all_gather", 0, 10, 50),
            Event { name: "all_gather", unit: None, what: wait, begin: at(30), end: at(50) },
            collective("all_gather", 1, 20, 80),
            collective("all_reduce", 2, 90, 95),
        ];
        let steps = [StepSpan { step: 7, begin: at(0), end: at(100) }];
        let text = chrome(3, clocks, &steps, &Kept { events, lost: 0 });
        let events: Vec<Value> = serde_json::from_str(&text).unwrap();
        let (names, events): (Vec<Value>, Vec<Value>) =
            events.into_iter().partition(|event| event["ph"] == "M");
        assert!(names.iter().any(|name| name["args"]["name"] == "dp_shard: all_gather, all_reduce"));
        let base = events[0]["ts"].as_f64().unwrap();
        let seen: Vec<_> = events
            .iter()
            .map(|event| {
                assert_eq!((&event["ph"], &event["pid"]), (&json!("X"), &json!(3)));
                let after = (event["ts"].as_f64().unwrap() - base).round() as u64;
                (event["name"].as_str().unwrap(), event["tid"].as_u64().unwrap(), after)
            })
            .collect();
        let expected = [
            ("step 7", 0, 0),
            ("all_gather block 1", 4, 10),
            ("wait for all_gather", 1, 30),
            ("all_gather block 1", 4, 50),
            ("all_reduce block 1", 4, 90),
        ];
        assert_eq!(seen, expected);
        assert_eq!(events[3]["dur"], 30.0);
        assert_eq!(events[1]["args"]["payload_bytes"], 4096);
    }
}
