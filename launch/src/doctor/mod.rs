//! `tisserand doctor`: whether the machines of an allocation are what a run needs, and which of them is slow.
//!
//! All ranks make the same checks at the same time, since that is how a run uses the machines; rank 0 gathers, compares
//! and tells. Each check is a file here and gives [`Finding`]s. One that cannot be made is a finding too, so that the
//! others are made; only what leaves ranks waiting for each other ends the whole.
//!
//! - `host`, `limits`, `variables`, `clock`: what the machine and the process are;
//! - `memory`, `gemm`, `gpu`: how fast a rank is; `measure`: how that is timed;
//! - `fabric`, `nccl`, `mpi`, `all_reduce`: the network, what was chosen of it, and how fast it is;
//! - [`file_system`]: the folder for runs;
//! - `hosts`, `compare`, `expected`: machines against each other and against a profile;
//! - [`report`], [`text`]: the result, for programs and for people.
//!
//! `docs/doctor.md` states thresholds and reasons.

mod all_reduce;
mod clock;
mod compare;
mod expected;
mod fabric;
pub mod file_system;
pub mod finding;
mod gemm;
mod gpu;
mod host;
mod hosts;
mod limits;
mod measure;
mod memory;
mod mpi;
#[cfg_attr(not(feature = "nccl"), allow(dead_code, reason = "asked for in builds with NCCL"))]
pub(crate) mod nccl;
pub mod report;
pub mod text;
mod variables;

use std::path::{Path, PathBuf};
use std::time::Instant;

use tisserand_collectives::{Communicator, ControlPlane, Mesh};
use tisserand_kernels::{Cpu, Device};
use tisserand_runtime::Result;
use tisserand_runtime::config::Config;
use tisserand_runtime::plan::machine::Machine;

pub use finding::{Finding, Verdict};
use hosts::Hosts;
pub use report::Report;

use crate::device::{self, OnDevice, OpenGpu, Place, Reached};
use crate::env;

/// What ranks that are examined agree on, as the run file of a run says it; `folder` is where they meet.
///
/// # Errors
/// None but our own mistakes.
pub fn terms(folder: &Path) -> Result<Config> {
    const RUN_FILE: &str = r#"
        config_version = 1
        run = { name = "doctor", collective_timeout_s = 60 }
        model = { vocab_size = 300, hidden_size = 16, intermediate_size = 32, num_layers = 1, num_heads = 1 }
        data.prepare = { text = ["-"], vocab_size = 300 }
        training = { seq_len = 16, global_batch = 1, steps = 1 }
        optimizer = { lr = 1e-3 }
    "#;
    let mut config = Config::parse(RUN_FILE, "doctor.toml", &[], None, &|_| None)?;
    folder.clone_into(&mut config.run.dir);
    Ok(config)
}

/// What is examined.
#[derive(Clone, Debug)]
pub struct Options {
    /// The [`file_system::Scratch`] of rank 0.
    pub folder: PathBuf,
    /// How long is measured, in all.
    pub seconds: f64,
    /// What GPUs and network should reach.
    pub machine: Option<Machine>,
}

/// Parts of the time of [`Options::seconds`].
mod share {
    pub(super) const PROCESSOR: f64 = 0.2;
    pub(super) const GPU: f64 = 0.25;
    pub(super) const ALL_REDUCE: f64 = 0.25;
    pub(super) const FILES: f64 = 0.3;
}

/// Makes all checks. The report is rank 0's.
///
/// # Errors
/// A failure of any rank.
pub fn examine(place: Place, control: &dyn ControlPlane, options: &Options) -> Result<Option<Report>> {
    let mut examination = Examination::begin(&place, control, options)?;
    let gpu = examination.open_gpu(&place)?;
    if let Some(why) = device::unreachable(&place.link, gpu.is_some()) {
        examination.findings.push(Finding::text("all_reduce", "other ranks", "not reached").warn(why));
    } else {
        let mesh = Mesh::new(1, control.world_size(), 1);
        device::reach(place, gpu, mesh, Ranks(&mut examination))?;
    }
    examination.end()
}

/// The part that needs device and communicators.
struct Ranks<'a, 'b>(&'a mut Examination<'b>);

impl OnDevice for Ranks<'_, '_> {
    type Output = ();

    fn run<D: Device>(self, reached: Reached<D>) -> Result<()> {
        let Reached { device, mut axes, trust, .. } = reached;
        self.0.on_device(&device, axes.reduce.as_mut(), trust)
    }
}

/// The checks of one rank, under way.
pub struct Examination<'a> {
    control: &'a dyn ControlPlane,
    options: &'a Options,
    hosts: Hosts,
    adapters: Vec<fabric::Adapter>,
    gpu_free_bytes: usize,
    between_processes: bool,
    findings: Vec<Finding>,
    began: Instant,
}

impl<'a> Examination<'a> {
    /// Makes the checks that come before any library for communication has started: some of them do not like
    /// processes that start others.
    ///
    /// # Errors
    /// A failure of any rank.
    pub fn begin(place: &Place, control: &'a dyn ControlPlane, options: &'a Options) -> Result<Self> {
        let began = Instant::now();
        let hosts = Hosts::meet(control)?;
        let adapters = fabric::adapters(Path::new("/sys"));
        let mut findings = host::check();
        findings.extend(limits::check(control.world_size(), fabric::is_there(&adapters)));
        findings.extend(variables::check(&env::variable));
        findings.push(fabric::check(&adapters));
        findings.extend(clock::check(control, &hosts)?);
        let between_processes = place.link.is_of_processes();
        let gpu_free_bytes = 0;
        let mut examination = Examination {
            control,
            options,
            hosts,
            adapters,
            gpu_free_bytes,
            between_processes,
            findings,
            began,
        };
        examination.processor(place.cores)?;
        Ok(examination)
    }

    /// All ranks at the same time, on their shares of the cores.
    fn processor(&mut self, cores: usize) -> Result<()> {
        let local_size = self.hosts.local_size(self.control.rank());
        let bytes = memory::buffer_bytes(cores, host::available_bytes() / local_size as f64);
        let device = Cpu::new(cores)?;
        let work = vec![memory::copies("memory", &device, bytes), gemm::on_cpu(&device, cores)];
        self.findings.extend(measure::rates(self.control, share::PROCESSOR * self.options.seconds, work)?);
        Ok(())
    }

    /// This rank's GPU, if all ranks have one.
    ///
    /// # Errors
    /// A failure of any rank.
    pub fn open_gpu(&mut self, place: &Place) -> Result<Option<OpenGpu>> {
        let gpu = gpu::open(self.control, place, &mut self.findings)?;
        self.gpu_free_bytes = gpu.as_ref().map_or(0, |gpu| gpu.facts().free_bytes);
        Ok(gpu)
    }

    /// Makes the checks of a device that reaches the others; `world` are all ranks. `trust` is called when they have
    /// reached each other once.
    ///
    /// # Errors
    /// A failure of any rank; sums that are wrong.
    pub fn on_device<D: Device>(
        &mut self,
        device: &D,
        world: &mut dyn Communicator<D>,
        trust: impl FnOnce(),
    ) -> Result<()> {
        let Examination { control, hosts, .. } = self;
        let (is_gpu, seconds) = (device.caps().name == "cuda", self.options.seconds);
        if is_gpu {
            self.findings.extend(gpu::measure(*control, device, self.gpu_free_bytes, share::GPU * seconds)?);
        }
        if control.world_size() > 1 {
            let seconds = share::ALL_REDUCE * seconds;
            self.findings.extend(all_reduce::check(*control, hosts, device, world, seconds, trust)?);
            if self.between_processes {
                self.findings.extend(libraries(is_gpu, &self.adapters, hosts.len()));
            }
        }
        Ok(())
    }

    /// Makes the checks of the file system, and brings everything to rank 0.
    ///
    /// # Errors
    /// A failure of any rank.
    pub fn end(mut self) -> Result<Option<Report>> {
        let seconds = share::FILES * self.options.seconds;
        let files = file_system::check(self.control, &self.hosts, &self.options.folder, seconds)?;
        self.findings.extend(files);
        if let Some(machine) = &self.options.machine {
            self.findings.iter_mut().for_each(|finding| expected::judge(machine, finding));
        }
        Report::gather(self.control, &self.hosts, self.findings, self.began.elapsed().as_secs_f64())
    }
}

/// What the library says that has moved the bytes between processes.
fn libraries(is_gpu: bool, adapters: &[fabric::Adapter], hosts: usize) -> Vec<Finding> {
    #[cfg(feature = "nccl")]
    if is_gpu && let Some(version) = device::nccl_version() {
        return nccl::check(&version, adapters, hosts);
    }
    #[cfg(feature = "mpi")]
    if !is_gpu && let Some(version) = tisserand_collectives::mpi::library_version() {
        return mpi::check(&version, adapters, hosts);
    }
    let _ = (is_gpu, adapters, hosts);
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_meet_in_the_folder_of_the_check() {
        let folder = Path::new("/scratch/a \"quoted\" folder");
        assert_eq!(terms(folder).unwrap().run.dir, folder);
    }
}
