//! When this job ends, asked from Slurm: once at the start, then now and then, since administrators extend limits. A
//! thread of its own asks, so that a slow controller delays nothing; without an answer there is no limit, and one line
//! says so.
//!
//! `SLURM_JOB_END_TIME` is taken first where Slurm sets it (not in 22.05); then `squeue` and, if that gives no answer,
//! `scontrol`, each for `PATIENCE` at most. Both print local times: they run with the time zone UTC.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use tisserand_runtime::log::{clock, units};
use tisserand_runtime::run::{Deadline, JobEnd};
use tisserand_runtime::{Error, Result};

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two questions: a tenth of what is left, within these bounds.
const OFTEN: Duration = Duration::from_secs(30);
const SELDOM: Duration = Duration::from_secs(300);

/// When Slurm ends the job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    /// Seconds since 1970.
    At(u64),
    Never,
}

/// Tells `end` when job `id` ends, from now on. `end_time` is what `SLURM_JOB_END_TIME` says.
///
/// # Errors
/// The system refuses a thread.
pub fn watch(end: JobEnd, id: String, end_time: Option<u64>) -> Result<()> {
    let watch = move || {
        let mut known = end_time.map(Answer::At);
        if let Some(answer) = known {
            tell(&end, &id, answer);
        }
        let mut has_complained = false;
        loop {
            match ask(&id) {
                Ok(answer) if known != Some(answer) => {
                    known = Some(answer);
                    tell(&end, &id, answer);
                }
                Ok(_) => {}
                Err(why) if known.is_none() && !std::mem::replace(&mut has_complained, true) => {
                    let hint = "hint: run.max_minutes says when to stop";
                    end.tell(
                        None,
                        format!("Slurm does not say when job {id} ends, so there is no limit: {why}; {hint}"),
                    );
                }
                // What was said before holds.
                Err(_) => {}
            }
            let left = end
                .end()
                .map_or(SELDOM, |end| Duration::from_secs_f64(end.remaining_s().clamp(0.0, 1e6) / 10.0));
            std::thread::sleep(left.clamp(OFTEN, SELDOM));
        }
    };
    let thread = std::thread::Builder::new().name("slurm".to_owned()).spawn(watch);
    thread
        .map(drop)
        .map_err(|error| Error::fault(format!("cannot start the thread that asks Slurm: {error}")))
}

fn tell(end: &JobEnd, id: &str, answer: Answer) {
    match answer {
        Answer::At(second) => {
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
            let left_s = second as f64 - clock::unix_seconds(SystemTime::now());
            let (time, left) = (clock::rfc3339(at), units::duration(left_s));
            let deadline = Deadline::new(Instant::now(), left_s);
            end.tell(Some(deadline), format!("Slurm ends job {id} at {time}, in {left}"));
        }
        Answer::Never => end.tell(None, format!("Slurm sets job {id} no time limit")),
    }
}

fn ask(id: &str) -> Result<Answer, String> {
    // The id of an array's first task stands for all of them: the line of this one is told by its own id.
    let squeue =
        answer("squeue", &["--noheader", "--jobs", id, "--format", "%A %e %l"], |text| of_squeue(text, id));
    squeue.or_else(|why| {
        let scontrol = answer("scontrol", &["--oneliner", "show", "job", id], |text| of_scontrol(text, id));
        scontrol.map_err(|second| format!("{why}; {second}"))
    })
}

fn answer(
    program: &str,
    arguments: &[&str],
    parse: impl FnOnce(&str) -> Option<Answer>,
) -> Result<Answer, String> {
    let text = output(program, arguments).map_err(|why| format!("{program}: {why}"))?;
    parse(&text).ok_or_else(|| {
        let first: String = text.lines().next().unwrap_or_default().chars().take(80).collect();
        format!("{program}: {first:?} is no answer")
    })
}

/// What a command prints, if it ends well and soon.
fn output(program: &str, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(arguments).env("TZ", "UTC0").env("SLURM_TIME_FORMAT", "standard");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
            Ok(None) => {
                // Whether it takes the signal or not, nobody waits for it.
                let _ = child.kill();
                return Err(format!("no answer within {} s", PATIENCE.as_secs()));
            }
            Err(error) => return Err(error.to_string()),
        }
    };
    if !status.success() {
        return Err(status.to_string());
    }
    let mut text = String::new();
    // A line a job: less than a pipe holds.
    let read = child.stdout.take().map(|stdout| stdout.take(1 << 16).read_to_string(&mut text));
    match read {
        Some(Ok(_)) => Ok(text),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("no output".to_owned()),
    }
}

/// Lines of id, end and limit: `1234 2026-11-26T18:00:00 1:00:00`.
fn of_squeue(text: &str, id: &str) -> Option<Answer> {
    let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|line| line.first() == Some(&id))?;
    let [_, end, limit] = line[..] else { return None };
    of_words(end, limit)
}

/// One line a job, of fields `Name=value`.
fn of_scontrol(text: &str, id: &str) -> Option<Answer> {
    let fields = |line: &'_ str, name: &str| -> Option<String> {
        let mut words = line.split_whitespace();
        words.find_map(|word| word.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    };
    let line = text.lines().find(|line| fields(line, "JobId").as_deref() == Some(id))?;
    of_words(&fields(line, "EndTime")?, &fields(line, "TimeLimit")?)
}

/// Slurm gives a job without a limit an end a year away, or none.
fn of_words(end: &str, limit: &str) -> Option<Answer> {
    if limit == "UNLIMITED" || ["N/A", "NONE", "Unknown", "UNLIMITED"].contains(&end) {
        return Some(Answer::Never);
    }
    clock::unix_second(end).map(Answer::At)
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: u64 = 1_795_716_000; // 2026-11-26T18:00:00Z

    #[test]
    fn answers_of_squeue() {
        let cases = [
            ("7 2026-11-26T18:00:00 1:00:00\n", Some(Answer::At(END))),
            // Of an array the line of the task itself.
            ("6 2026-11-26T19:00:00 1:00\n7 2026-11-26T18:00:00 1:00:00\n", Some(Answer::At(END))),
            ("7 2027-11-26T18:00:00 UNLIMITED\n", Some(Answer::Never)),
            ("7 N/A UNLIMITED\n", Some(Answer::Never)),
            ("7 NONE 1:00\n", Some(Answer::Never)),
            ("", None),
            ("\n\n", None),
            ("7\n", None),
            ("8 2026-11-26T18:00:00 1:00:00\n", None),
            ("7 soon 1:00\n", None),
            ("slurm_load_jobs error: Invalid job id specified\n", None),
        ];
        for (text, answer) in cases {
            assert_eq!(of_squeue(text, "7"), answer, "{text:?}");
        }
    }

    #[test]
    fn answers_of_scontrol() {
        let line = "JobId=7 JobName=llm RunTime=00:01:00 TimeLimit=01:00:00 EndTime=2026-11-26T18:00:00 Deadline=N/A";
        assert_eq!(of_scontrol(line, "7"), Some(Answer::At(END)));
        assert_eq!(of_scontrol(line, "8"), None);
        let unlimited = line.replace("01:00:00 EndTime=2026-11-26T18:00:00", "UNLIMITED EndTime=Unknown");
        assert_eq!(of_scontrol(&unlimited, "7"), Some(Answer::Never));
        assert_eq!(of_scontrol("JobId=7", "7"), None);
    }

    #[test]
    fn a_command_that_fails_is_an_error_that_says_how() {
        assert!(output("tisserand-no-such-program", &[]).unwrap_err().contains("No such file"));
        assert!(output("false", &[]).unwrap_err().contains("exit status: 1"));
        assert_eq!(output("echo", &["7"]).unwrap(), "7\n");
    }
}
