//! What figures depend on beside the run: program, machine, network, job. Asked once, on the machine of the driver,
//! when the sweep begins. What this machine does not tell is absent, and printed as a blank.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tisserand_runtime::log::clock;
use tisserand_runtime::{build, run};

use crate::env;

/// Everything.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Environment {
    /// When the sweep began, RFC 3339, UTC.
    pub time: String,
    /// The command line of the driver.
    pub command_line: Vec<String>,
    /// The program.
    pub program: Program,
    /// The machine of the driver: in a Slurm job its first node.
    pub machine: Machine,
    /// GPUs of that machine.
    pub gpus: Vec<Gpu>,
    /// What the libraries of the network said of themselves in the logs of points.
    pub network: Vec<String>,
    /// Variables of Slurm, MPI, NCCL, CUDA and OpenMP, without those that may be secrets.
    pub variables: Vec<(String, String)>,
}

/// The program.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Program {
    /// Its version.
    pub version: String,
    /// Its commit, if the build knew it.
    pub commit: Option<String>,
    /// The compiler.
    pub rustc: Option<String>,
    /// "release" or "development".
    pub profile: String,
    /// Features that were built in.
    pub features: Vec<String>,
}

/// A machine.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Its name.
    pub host: String,
    /// Operating system.
    pub system: Option<String>,
    /// Kernel.
    pub kernel: Option<String>,
    /// Processor.
    pub cpu: Option<String>,
    /// Processors that the driver may use, in the system's count.
    pub cpus: usize,
    /// How the clock of the processors is chosen.
    pub cpu_governor: Option<String>,
    /// Power limit of the first package, watts.
    pub cpu_power_limit_w: Option<f64>,
    /// Main memory.
    pub memory_bytes: Option<u64>,
}

/// A GPU as nvidia-smi describes it; clocks in MHz, power in watts. Blank where it has no answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as nvidia-smi names them")]
pub struct Gpu {
    pub name: String,
    pub driver_version: String,
    pub clocks_max_sm: Option<f64>,
    pub clocks_max_memory: Option<f64>,
    pub clocks_applications_graphics: Option<f64>,
    pub power_limit: Option<f64>,
    pub power_default_limit: Option<f64>,
    pub memory_total_mib: Option<f64>,
    pub persistence_mode: String,
}

impl Environment {
    /// That of this process.
    pub fn now() -> Self {
        let process = env::process();
        Environment {
            time: clock::rfc3339(SystemTime::now()),
            command_line: process.command_line().to_vec(),
            program: Program::this(),
            machine: Machine::this(),
            gpus: gpus(),
            network: Vec::new(),
            variables: process.variables().to_vec(),
        }
    }
}

impl Program {
    /// The one that runs.
    pub fn this() -> Self {
        let features = [
            ("mpi", cfg!(feature = "mpi")),
            ("nccl", cfg!(feature = "nccl")),
            ("cuda", cfg!(feature = "cuda")),
            ("emulator", cfg!(feature = "emulator")),
        ];
        Program {
            version: build::VERSION.to_owned(),
            commit: build::GIT_COMMIT.map(str::to_owned),
            rustc: build::RUSTC.map(str::to_owned),
            profile: build::PROFILE.to_owned(),
            features: features.iter().filter(|(_, on)| *on).map(|(name, _)| (*name).to_owned()).collect(),
        }
    }

    /// In one line.
    pub fn named(&self) -> String {
        let commit = self.commit.as_deref().unwrap_or("commit unknown");
        format!("{} ({commit}, {} build)", self.version, self.profile)
    }
}

impl Machine {
    fn this() -> Self {
        let limit = text("/sys/class/powercap/intel-rapl:0/constraint_0_power_limit_uw");
        let kib = field("/proc/meminfo", "MemTotal").and_then(|value| value.split(' ').next()?.parse().ok());
        Machine {
            host: run::host::host_name(),
            system: field_with("/etc/os-release", "PRETTY_NAME", '=')
                .map(|name| name.trim_matches('"').to_owned()),
            kernel: text("/proc/sys/kernel/osrelease"),
            // Arm's /proc/cpuinfo has numbers only.
            cpu: field("/proc/cpuinfo", "model name").or_else(|| field("/proc/cpuinfo", "CPU part")),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            cpu_governor: text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            cpu_power_limit_w: limit.and_then(|limit| limit.parse::<f64>().ok()).map(|limit| limit / 1e6),
            memory_bytes: kib.map(|kib: u64| 1024 * kib),
        }
    }
}

/// A file of one line.
fn text(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn field(path: &str, name: &str) -> Option<String> {
    field_with(path, name, ':')
}

/// The first line `name: value` of a file.
fn field_with(path: &str, name: &str, separator: char) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once(separator));
    lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
}

/// What nvidia-smi is asked of each GPU.
const GPU_FIELDS: &str = "name,driver_version,clocks.max.sm,clocks.max.memory,clocks.applications.graphics,\
                          power.limit,power.default_limit,memory.total,persistence_mode";

/// The GPUs of this machine; none where there is no nvidia-smi.
fn gpus() -> Vec<Gpu> {
    let query = format!("--query-gpu={GPU_FIELDS}");
    let asked = Command::new("nvidia-smi")
        .args([&query, "--format=csv,noheader,nounits"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let text = asked.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    let text = text.map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default();
    text.lines().filter_map(gpu).collect()
}

fn gpu(line: &str) -> Option<Gpu> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let [name, driver, max_sm, max_memory, applications, limit, default_limit, memory, persistence] =
        fields[..]
    else {
        return None;
    };
    let number = |text: &str| text.parse::<f64>().ok();
    Some(Gpu {
        name: name.to_owned(),
        driver_version: driver.to_owned(),
        clocks_max_sm: number(max_sm),
        clocks_max_memory: number(max_memory),
        clocks_applications_graphics: number(applications),
        power_limit: number(limit),
        power_default_limit: number(default_limit),
        memory_total_mib: number(memory),
        persistence_mode: persistence.to_owned(),
    })
}

/// Lines of a log in which MPI or NCCL say who they are and what network they take, each once, without what tells one
/// process from another.
pub fn network(log: &Path) -> Vec<String> {
    const TELLING: [&str; 7] = [
        "NCCL version",
        "NCCL 2",
        "Using network",
        "NET/",
        "Open MPI v",
        "MPICH Version",
        "CUDA driver version",
    ];
    const LINES_MAX: usize = 12;
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| TELLING.iter().any(|word| line.contains(word))) {
        // host:pid:tid [0] NCCL INFO What it says
        let said = line.split_once("NCCL INFO ").map_or(line, |(_, said)| said).trim().to_owned();
        if !lines.contains(&said) && lines.len() < LINES_MAX {
            lines.push(said);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_read_with_its_blanks() {
        let line =
            "NVIDIA H100 80GB HBM3, 550.90.07, 1980, 2619, [Not Supported], 700.00, 700.00, 81559, Enabled";
        let gpu = gpu(line).unwrap();
        assert_eq!((gpu.name.as_str(), gpu.driver_version.as_str()), ("NVIDIA H100 80GB HBM3", "550.90.07"));
        assert_eq!((gpu.clocks_max_sm, gpu.clocks_applications_graphics), (Some(1980.0), None));
        assert_eq!((gpu.power_limit, gpu.memory_total_mib), (Some(700.0), Some(81559.0)));
        assert_eq!(super::gpu("No devices were found"), None);
    }

    #[test]
    fn the_network_is_what_logs_say_of_it_once() {
        let root = tempfile::tempdir().unwrap();
        let log = root.path().join("log");
        let lines = [
            "n1:7:9 [0] NCCL INFO Using network IB",
            "n2:8:9 [1] NCCL INFO Using network IB",
            "a line of the run",
            "NCCL 2.21.5 (/usr/lib/libnccl.so.2)",
        ];
        fs::write(&log, lines.join("\n")).unwrap();
        assert_eq!(network(&log), ["Using network IB", "NCCL 2.21.5 (/usr/lib/libnccl.so.2)"]);
        assert!(network(&root.path().join("none")).is_empty());
    }

    #[test]
    fn this_process_knows_program_and_machine() {
        let environment = Environment::now();
        assert!(!environment.program.version.is_empty() && environment.program.rustc.is_some());
        assert!(!environment.machine.host.is_empty() && environment.machine.cpus > 0);
        let text = serde_json::to_string(&environment).unwrap();
        assert_eq!(serde_json::from_str::<Environment>(&text).unwrap(), environment);
    }
}
