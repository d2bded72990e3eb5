//! A training run in which one rank fails, in a process of its own: this test program starts itself again with a
//! [`Fault`] in its environment. Everything but the fault is what `tisserand train` does.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tisserand_collectives::{
    Audit, Axes, Call, CommError, Communicator, Failure, Overlap, Pending, Progress, Single,
};
use tisserand_kernels::{Block, Context, Cpu};
use tisserand_launch::device::{self, Link, Place};
use tisserand_launch::{placement, threads, world};
use tisserand_runtime::config::Config;
use tisserand_runtime::engine::Engine;
use tisserand_runtime::run::StopFlag;
use tisserand_runtime::step::{Executor, StepConfig};
use tisserand_runtime::train::{self, DeviceChoice, TrainOptions};
use tisserand_runtime::{Error, Result};

const VARIABLE: &str = "TISSERAND_TEST_FAULT";

/// What the rank does.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum How {
    /// Its thread panics.
    Panic,
    /// Its device fails.
    Error,
    /// It is late, for so many milliseconds.
    Sleep(u64),
    /// It finds bad input while it starts.
    Input,
}

/// Which rank fails, when and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) rank: usize,
    /// "gather", "reduce" or "replicate": the communicator in whose call it happens.
    pub(crate) communicator: &'static str,
    /// From this step on (0: before the first) ...
    pub(crate) step: u64,
    /// ... after so many calls.
    pub(crate) calls: u64,
    pub(crate) how: How,
}

impl Fault {
    fn to_json(self) -> Value {
        let (how, ms) = match self.how {
            How::Panic => ("panic", 0),
            How::Error => ("error", 0),
            How::Sleep(ms) => ("sleep", ms),
            How::Input => ("input", 0),
        };
        json!({ "rank": self.rank, "communicator": self.communicator, "step": self.step, "calls": self.calls,
            "how": how, "ms": ms })
    }

    fn from_json(value: &Value) -> Fault {
        let number = |key: &str| value[key].as_u64().unwrap();
        Fault {
            rank: number("rank") as usize,
            communicator: match value["communicator"].as_str().unwrap() {
                "gather" => "gather",
                "reduce" => "reduce",
                _ => "replicate",
            },
            step: number("step"),
            calls: number("calls"),
            how: match value["how"].as_str().unwrap() {
                "panic" => How::Panic,
                "error" => How::Error,
                "sleep" => How::Sleep(number("ms")),
                _ => How::Input,
            },
        }
    }

    fn happen(self) -> Result<(), CommError> {
        eprintln!("fault: {:?}", self.how);
        let started = Instant::now();
        match self.how {
            How::Panic => panic!("the test says so"),
            How::Error => return Err(CommError::Kernel("the test's device is broken".to_owned())),
            How::Sleep(ms) => std::thread::sleep(Duration::from_millis(ms)),
            How::Input => {}
        }
        eprintln!("fault: over after {:.1} s", started.elapsed().as_secs_f64());
        Ok(())
    }
}

/// The command that trains on `ranks` ranks with this fault; run file and `--set` as for `tisserand train`.
pub(crate) fn command(fault: Fault, ranks: usize, run_file: &[String]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let all = json!({ "fault": fault.to_json(), "ranks": ranks, "run_file": run_file });
    command.args(["faulty::a_run_with_a_fault", "--exact", "--nocapture"]).env(VARIABLE, all.to_string());
    command
}

/// Not a test but the program of [`command`].
#[test]
fn a_run_with_a_fault() {
    let Ok(all) = std::env::var(VARIABLE) else { return };
    let all: Value = serde_json::from_str(&all).unwrap();
    let fault = Fault::from_json(&all["fault"]);
    let words: Vec<&str> = all["run_file"].as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect();
    let sets: Vec<String> = words[1..].chunks(2).map(|pair| pair[1].to_owned()).collect();
    let code = match train(Path::new(words[0]), &sets, all["ranks"].as_u64().unwrap() as usize, fault) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            error.exit_code()
        }
    };
    std::process::exit(code.into());
}

fn train(path: &Path, sets: &[String], ranks: usize, fault: Fault) -> Result<u8> {
    let config = Config::load(path, sets, Some(ranks), &|_| None)?;
    let options = TrainOptions {
        run_toml: std::fs::read_to_string(path).unwrap(),
        quiet: true,
        ..TrainOptions::default()
    };
    let outcome = threads::join(ranks, &world::Terms::of(&config), |place, control| {
        let (device, mut options) = (choose(&config, place, fault)?, options.clone());
        if let Some(placement) = placement::settle(control.as_ref(), &device, None, true)? {
            placement.tell(&mut options);
        }
        train::train(config.clone(), options, device, control, StopFlag::new())
    })?;
    Ok(outcome.exit_code())
}

/// The device of a rank; that of one is faulty.
fn choose(config: &Config, place: Place, fault: Fault) -> Result<DeviceChoice> {
    if place.local_rank != fault.rank {
        return device::choose(config, place);
    }
    let Place { local_rank, opener, link, progress, .. } = place;
    let Link::Threads(seats) = link else { panic!("a fault needs several ranks") };
    let [world, inner] = seats.cpu();
    let device = Cpu::new(1)?;
    let make = Box::new(move |model, step: StepConfig, arena_bytes| {
        if fault.how == How::Input {
            return Err(Error::input("tokens.bin: not for this rank to read; hint: chmod"));
        }
        let mut world = world.take(&device, Overlap::Background, progress.clone())?;
        let mut inner = inner.take(&device, Overlap::None, progress.clone())?;
        let mut axes = Axes::split(step.sharding.mesh, &mut world, &mut inner, 1)?;
        let communicator = match fault.communicator {
            "gather" => &mut axes.gather,
            "reduce" => &mut axes.reduce,
            _ => &mut axes.replicate,
        };
        let good = std::mem::replace(communicator, Box::new(Single::new(device.clone())));
        *communicator = Box::new(Faulty { good, fault, calls: 0, progress: progress.clone() });
        let ctx = Context::new(device, arena_bytes)?;
        Ok(Box::new(Executor::new(ctx, model, step, axes, progress)?) as Box<dyn Engine>)
    });
    Ok(DeviceChoice {
        caps: Cpu::CAPS,
        description: "faulty".to_owned(),
        local_rank,
        opener,
        gpu: None,
        workspace: tisserand_collectives::Workspace::None,
        after_first_step: Box::new(|| {}),
        make,
    })
}

/// A communicator that fails at one call.
struct Faulty {
    good: Box<dyn Communicator<Cpu>>,
    fault: Fault,
    /// Since the fault's step began.
    calls: u64,
    progress: Progress,
}

impl Communicator<Cpu> for Faulty {
    fn rank(&self) -> usize {
        self.good.rank()
    }

    fn size(&self) -> usize {
        self.good.size()
    }

    fn start(&mut self, call: Call, block: Block<Cpu>) -> Result<Pending<Cpu>, CommError> {
        if self.progress.read().0.step >= self.fault.step {
            if self.calls == self.fault.calls {
                self.fault.happen()?;
            }
            self.calls += 1;
        }
        self.good.start(call, block)
    }

    fn barrier(&mut self) -> Result<(), CommError> {
        self.good.barrier()
    }

    fn split(
        &mut self,
        axis: &str,
        color: usize,
        key: usize,
    ) -> Result<Box<dyn Communicator<Cpu>>, CommError> {
        self.good.split(axis, color, key)
    }

    fn audit(&self) -> Audit {
        self.good.audit()
    }

    fn abort(&mut self, failure: Failure) {
        self.good.abort(failure);
    }
}
