//! Which points a sweep has, in which order they run, and what is laid over the run file for each.

use serde::{Deserialize, Serialize};
use tisserand_runtime::config::Config;
use tisserand_runtime::train::measure::MeasuredData;
use tisserand_runtime::{Error, Result};

/// What stays the same when ranks are added.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The work of a rank.
    Weak,
    /// The work of a step.
    Strong,
}

impl Kind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Weak => "weak",
            Kind::Strong => "strong",
        }
    }
}

/// Everything that a sweep was asked for. Two sweeps with the same plan measure the same.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Sweep {
    /// Weak or strong.
    pub kind: Kind,
    /// What is counted: "nodes" or "ranks".
    pub unit: String,
    /// Ascending, each once.
    pub counts: Vec<usize>,
    /// Ranks of one unit.
    pub ranks_per_unit: usize,
    /// Steps before those that count.
    pub warmup: usize,
    /// Timed steps of each repeat.
    pub steps: usize,
    /// Repeats of each point.
    pub repeats: usize,
    /// What is trained on.
    pub data: MeasuredData,
    /// What starts ranks: "threads", "mpirun" or "srun".
    pub launcher: String,
    /// Its further arguments.
    pub launcher_args: Vec<String>,
    /// Minutes after which a point counts as hung.
    pub point_minutes: usize,
    /// The run file as it was.
    pub run_file: String,
    /// Its path.
    pub run_file_path: String,
    /// `--set` of the command line.
    pub sets: Vec<String>,
    /// `training.global_batch` of each point, in the order of `counts`.
    pub global_batches: Vec<usize>,
}

/// One run of one point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turn {
    /// Nodes or ranks.
    pub count: usize,
    /// From 1.
    pub repeat: usize,
}

impl Sweep {
    /// Every point in every repeat: upward in the first, downward in the second, and so on. What drifts with time
    /// hits small and large points alike.
    pub fn turns(&self) -> Vec<Turn> {
        let of_repeat = |repeat: usize| {
            let mut counts = self.counts.clone();
            if repeat.is_multiple_of(2) {
                counts.reverse();
            }
            counts.into_iter().map(move |count| Turn { count, repeat })
        };
        (1..=self.repeats).flat_map(of_repeat).collect()
    }

    /// Ranks of a point.
    pub fn ranks(&self, count: usize) -> usize {
        count * self.ranks_per_unit
    }

    /// The largest point, at which bandwidth is measured.
    pub fn largest(&self) -> usize {
        self.counts.last().copied().unwrap_or(1)
    }

    /// What is laid over the run file for a point, those of the command line first.
    pub fn sets_of(&self, count: usize) -> Vec<String> {
        let place = self.counts.iter().position(|of| *of == count);
        let batch = place.and_then(|place| self.global_batches.get(place));
        let batch = batch.map(|batch| format!("training.global_batch={batch}"));
        self.sets.iter().cloned().chain(batch).collect()
    }

    /// "4 nodes", "1 rank".
    pub fn named(&self, count: usize) -> String {
        let unit = if count == 1 { self.unit.trim_end_matches('s') } else { &self.unit };
        format!("{count} {unit}")
    }
}

/// `training.global_batch` of each point; `base` is that of the run file, which is the smallest point's.
///
/// # Errors
/// Weak scaling of a batch that does not grow in whole sequences.
pub fn global_batches(kind: Kind, unit: &str, base: usize, counts: &[usize]) -> Result<Vec<usize>> {
    let Some(&first) = counts.first() else { return Ok(Vec::new()) };
    let batch = |&count: &usize| {
        if kind == Kind::Strong {
            return Ok(base);
        }
        let sequences = base * count;
        if !sequences.is_multiple_of(first) {
            return Err(Error::input(format!(
                "--weak --{unit} {count}: training.global_batch = {base} at {first} {unit} would become {base} × \
                 {count} / {first} sequences; hint: training.global_batch = {}, or counts that {first} divides",
                base.next_multiple_of(first)
            )));
        }
        Ok(sequences / first)
    };
    counts.iter().map(batch).collect()
}

/// Sorted, each once.
pub fn ascending(mut counts: Vec<usize>) -> Vec<usize> {
    counts.sort_unstable();
    counts.dedup();
    counts
}

/// Names the point in whose configuration something is wrong.
///
/// # Errors
/// `config`'s, with the point before it.
pub fn of_point(sweep: &Sweep, count: usize, config: Result<Config>) -> Result<Config> {
    config.map_err(|error| match error {
        Error::Input(why) => Error::input(format!("{} of --{}: {why}", sweep.named(count), sweep.unit)),
        other => other,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example(kind: Kind, counts: &[usize]) -> Sweep {
        Sweep {
            kind,
            unit: "nodes".to_owned(),
            counts: counts.to_vec(),
            ranks_per_unit: 4,
            warmup: 2,
            steps: 4,
            repeats: 2,
            data: MeasuredData::Synthetic,
            launcher: "srun".to_owned(),
            launcher_args: vec!["--mpi=pmix".to_owned()],
            point_minutes: 30,
            run_file: "[run]\nname = \"tiny & <small>\"\n".to_owned(),
            run_file_path: "tiny_run.toml".to_owned(),
            sets: vec!["mesh.zero=3".to_owned()],
            global_batches: global_batches(kind, "nodes", 8, counts).unwrap(),
        }
    }

    #[test]
    fn points_go_up_and_down_in_turn() {
        let sweep = Sweep { repeats: 3, ..example(Kind::Weak, &[1, 2, 4]) };
        let counts: Vec<usize> = sweep.turns().iter().map(|turn| turn.count).collect();
        assert_eq!(counts, [1, 2, 4, 4, 2, 1, 1, 2, 4]);
        assert_eq!(sweep.turns()[3], Turn { count: 4, repeat: 2 });
        assert_eq!((sweep.named(1), sweep.named(4)), ("1 node".to_owned(), "4 nodes".to_owned()));
    }

    #[test]
    fn the_batch_grows_with_weak_scaling_alone() {
        assert_eq!(global_batches(Kind::Strong, "ranks", 8, &[2, 3]).unwrap(), [8, 8]);
        assert_eq!(global_batches(Kind::Weak, "ranks", 8, &[2, 3]).unwrap(), [8, 12]);
        let error = global_batches(Kind::Weak, "ranks", 7, &[2, 3]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().starts_with("--weak --ranks 3: training.global_batch = 7 at 2 ranks"));
        assert!(error.to_string().contains("hint: training.global_batch = 8"), "{error}");
    }

    #[test]
    fn the_batch_of_a_point_is_laid_over_what_the_command_line_says() {
        let sweep = example(Kind::Weak, &[1, 4]);
        assert_eq!(sweep.sets_of(4), ["mesh.zero=3", "training.global_batch=32"]);
        assert_eq!((sweep.ranks(4), sweep.largest()), (16, 4));
        assert_eq!(ascending(vec![4, 1, 2, 4]), [1, 2, 4]);
    }
}
