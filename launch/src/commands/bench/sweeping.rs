//! The sweep itself: turn after turn, what is finished kept on disk, what fails told, and the report of all.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use tisserand_runtime::Result;
use tisserand_runtime::config::{Config, DeviceKind};
use tisserand_runtime::log::units;
use tisserand_runtime::plan::machine::Machine;
use tisserand_runtime::train::measure::MeasuredData;

use super::scaling::notes;
use crate::env;
use crate::scaling::assemble::{self, Measured};
use crate::scaling::environment::{self, Environment};
use crate::scaling::predict::Prediction;
use crate::scaling::record::{BandwidthRecord, PointRecord};
use crate::scaling::report::{FORMAT, Failure, Model, Report};
use crate::scaling::start::{Failed, Start, last_lines};
use crate::scaling::statistics::Summary;
use crate::scaling::store::{self, Store};
use crate::scaling::sweep::{Sweep, Turn};

/// A sweep under way.
pub(super) struct Sweeping<'a> {
    pub(super) sweep: &'a Sweep,
    pub(super) store: &'a Store,
    /// In the order of the counts.
    pub(super) configs: &'a [Config],
}

impl Sweeping<'_> {
    /// Runs what is not there yet; `predictions` in the order of the counts.
    pub(super) fn run(
        &self,
        machine: Option<&Machine>,
        predictions: &[Option<Prediction>],
    ) -> Result<Report> {
        let Sweeping { sweep, store, .. } = self;
        let mut environment = self.environment()?;
        let program = env::program()?;
        let turns = sweep.turns();
        let mut records: Vec<(Turn, PointRecord)> = Vec::new();
        let mut failures = Vec::new();
        let mut progress = Progress { begin: Instant::now(), run: 0, of: turns.len() + 1 };
        for (i, turn) in turns.iter().enumerate() {
            let path = store.point(sweep, *turn);
            let what = format!("{}, repeat {}", sweep.named(turn.count), turn.repeat);
            if !path.exists() {
                progress.begins(i, &what);
                failures.extend(self.measure(&program, Some(*turn), &what, &path)?);
                progress.run += 1;
            }
            if path.exists() {
                let record: PointRecord = store::read(&path)?;
                progress.ended(i, &what, &record);
                records.push((*turn, record));
            }
        }
        let path = store.bandwidth();
        if !path.exists() {
            progress.begins(turns.len(), "bandwidth");
            failures.extend(self.measure(&program, None, "bandwidth", &path)?);
        }
        let bandwidth: Vec<BandwidthRecord> = if path.exists() { store::read(&path)? } else { Vec::new() };
        environment.network = self.network(&turns);
        Ok(self.report(machine, predictions, records, bandwidth, failures, environment))
    }

    /// As it was when the sweep began.
    fn environment(&self) -> Result<Environment> {
        let path = self.store.environment();
        if path.exists() {
            return store::read(&path);
        }
        let environment = Environment::now();
        self.store.write(&path, &environment)?;
        Ok(environment)
    }

    /// Runs the ranks of one turn, or of the measurement of bandwidth; why there is no result.
    fn measure(
        &self,
        program: &Path,
        turn: Option<Turn>,
        what: &str,
        path: &Path,
    ) -> Result<Option<Failure>> {
        let Sweeping { sweep, store, .. } = self;
        let count = turn.map_or(sweep.largest(), |turn| turn.count);
        let log = store.log(sweep, turn);
        let is_cuda = self.configs.iter().any(|config| config.run.device == DeviceKind::Cuda);
        // NCCL says once per process which network it takes.
        let nccl = [("NCCL_DEBUG", "INFO"), ("NCCL_DEBUG_SUBSYS", "INIT,NET")];
        let start = Start {
            sweep,
            count,
            program,
            arguments: self.worker(count, turn.is_none(), path),
            cpus_per_task: env::variable("SLURM_CPUS_PER_TASK"),
            variables: if is_cuda { nccl.to_vec() } else { Vec::new() },
            log: &log,
        };
        let failed = match start.run()? {
            Ok(()) if path.exists() => return Ok(None),
            Ok(()) => {
                let how = format!("ended well, but {} is not there", path.display());
                Failed { how, last_lines: last_lines(&log) }
            }
            Err(failed) => failed,
        };
        eprintln!("{what} failed: {}; the last lines of {}:", failed.how, log.display());
        failed.last_lines.iter().for_each(|line| eprintln!("  {line}"));
        let log = log.display().to_string();
        Ok(Some(Failure { turn: what.to_owned(), how: failed.how, log, last_lines: failed.last_lines }))
    }

    /// The arguments of the ranks.
    fn worker(&self, count: usize, of_bandwidth: bool, write: &Path) -> Vec<String> {
        let Sweeping { sweep, store, .. } = self;
        let mut arguments = vec!["bench".to_owned(), "worker".to_owned(), sweep.run_file_path.clone()];
        let work = toml_string(&store.work());
        for set in sweep.sets_of(count).into_iter().chain([format!("run.dir={work}")]) {
            arguments.extend(["--set".to_owned(), set]);
        }
        arguments.extend(["--steps".to_owned(), sweep.steps.to_string()]);
        arguments.extend(["--warmup".to_owned(), sweep.warmup.to_string()]);
        arguments.extend(["--write".to_owned(), write.display().to_string()]);
        arguments.extend((sweep.data == MeasuredData::Synthetic).then(|| "--synthetic".to_owned()));
        arguments.extend(of_bandwidth.then(|| "--bandwidth".to_owned()));
        arguments
    }

    /// What the libraries said of the network, in whatever log they did.
    fn network(&self, turns: &[Turn]) -> Vec<String> {
        let mut said: Vec<String> = Vec::new();
        for turn in turns.iter().map(|turn| Some(*turn)).chain([None]) {
            for line in environment::network(&self.store.log(self.sweep, turn)) {
                if !said.contains(&line) {
                    said.push(line);
                }
            }
        }
        said
    }

    fn report(
        &self,
        machine: Option<&Machine>,
        predictions: &[Option<Prediction>],
        records: Vec<(Turn, PointRecord)>,
        bandwidth: Vec<BandwidthRecord>,
        failures: Vec<Failure>,
        environment: Environment,
    ) -> Report {
        let Sweeping { sweep, configs, .. } = self;
        let (config, first) = (&configs[0], records.first().map(|(_, record)| record.clone()));
        let mut notes = notes(sweep, config, machine);
        let missing = records.iter().find_map(|(_, record)| record.energy_missing.clone());
        notes.extend(missing.map(|why| format!("no energy: {why}")));
        let programs: BTreeSet<&str> = records.iter().map(|(_, record)| record.program.as_str()).collect();
        if programs.len() > 1 {
            let programs = programs.into_iter().collect::<Vec<_>>().join(", ");
            notes.push(format!("points were measured by different programs: {programs}"));
        }
        let measured: Vec<Measured> = sweep
            .counts
            .iter()
            .zip(predictions)
            .map(|(&count, &prediction)| {
                let of_count = records.iter().filter(|(turn, _)| turn.count == count);
                let repeats = of_count.map(|(turn, record)| (turn.repeat, record.clone())).collect();
                Measured { count, repeats, prediction }
            })
            .filter(|point: &Measured| !point.repeats.is_empty())
            .collect();
        let model = first.map_or_else(Model::default, |record| Model {
            parameters: record.parameters,
            seq_len: config.training.seq_len,
            compute_dtype: record.compute_dtype,
            flops_per_token_full: record.flops_per_token_full,
            flops_per_token_causal: record.flops_per_token_causal,
            profile: machine.map(|machine| machine.name.clone()),
            peak_flop_per_s: machine.map(|machine| machine.peak_flop_per_s(config.precision.compute)),
        });
        Report {
            format: FORMAT,
            name: config.run.name.clone(),
            sweep: (*sweep).clone(),
            model,
            points: assemble::points(&measured, sweep.counts[0]),
            bandwidth,
            failures,
            notes,
            environment,
        }
    }
}

/// A path as `--set` takes it, whatever characters it has.
fn toml_string(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace("${", "$${"))
}

/// Lines on standard error.
struct Progress {
    begin: Instant,
    /// Turns that were run, and not found.
    run: usize,
    /// All turns, bandwidth included.
    of: usize,
}

impl Progress {
    fn begins(&self, turn: usize, what: &str) {
        let left = (self.of - turn) as f64;
        let eta = match self.run {
            0 => String::new(),
            run => {
                let each = self.begin.elapsed().as_secs_f64() / run as f64;
                format!(", {} left", units::duration(left * each))
            }
        };
        eprintln!("{} of {}: {what}{eta}", turn + 1, self.of);
    }

    fn ended(&self, turn: usize, what: &str, record: &PointRecord) {
        let steps = Summary::of(record.steps.iter().map(|step| step.total_s));
        if let Some(steps) = steps {
            let median = units::period(steps.median);
            eprintln!("{} of {}: {what}: {median} a step, loss {:.3}", turn + 1, self.of, record.loss);
        }
    }
}
