//! What the machine is: processor, memory, kernel, C library, and who else uses it.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::finding::Finding;
use super::memory::GIB;

const CHECK: &str = "host";

/// A run needs this much beside its data.
const LEAST_FREE_BYTES: f64 = 1.0 * GIB;

pub(super) fn check() -> Vec<Finding> {
    let cpuinfo = read("/proc/cpuinfo");
    let cores = allowed_cores();
    let mut findings = vec![
        Finding::text(CHECK, "cpu", model(&cpuinfo)),
        Finding::number(CHECK, "cores allowed", cores.len() as f64, ""),
        Finding::number(CHECK, "NUMA nodes", numa_nodes(Path::new("/sys/devices/system/node")) as f64, ""),
    ];
    findings.extend(memory());
    findings.push(Finding::text(CHECK, "kernel", read("/proc/sys/kernel/osrelease").trim()));
    findings.push(Finding::text(CHECK, "libc", libc()));
    findings.extend(load());
    findings
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Numbers of the cores that this process may run on.
pub(super) fn allowed_cores() -> Vec<usize> {
    let status = read("/proc/self/status");
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    numbers(list.unwrap_or_default().trim())
}

/// Of a list as Linux writes it: "0-3,8".
fn numbers(list: &str) -> Vec<usize> {
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<usize>().ok()?..=last.parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

/// x86 has a name for people; Arm has numbers of a vendor and of a core.
fn model(cpuinfo: &str) -> String {
    let field = |name: &str| {
        let lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        lines.into_iter().find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
    };
    match (field("model name"), field("CPU implementer"), field("CPU part")) {
        (Some(name), ..) => name,
        (None, Some(vendor), Some(part)) => format!("Arm, implementer {vendor}, part {part}"),
        _ => format!("{}, not named by /proc/cpuinfo", std::env::consts::ARCH),
    }
}

fn numa_nodes(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_node = |name: &str| name.strip_prefix("node").is_some_and(|number| number.parse::<u32>().is_ok());
    entries.filter(|entry| is_node(&entry.file_name().to_string_lossy())).count().max(1)
}

/// A line of /proc/meminfo, in bytes.
fn meminfo(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? * 1024.0)
}

/// Bytes that programs may still take.
pub(super) fn available_bytes() -> f64 {
    let available = meminfo(&read("/proc/meminfo"), "MemAvailable").unwrap_or(4.0 * GIB);
    memory_limit_bytes().map_or(available, |limit| available.min(limit))
}

/// That of the control group, if it has one: what Slurm gives a job.
fn memory_limit_bytes() -> Option<f64> {
    let groups = read("/proc/self/cgroup");
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let limits = Path::new(group).ancestors().filter_map(|group| {
        fs::read_to_string(Path::new("/sys/fs/cgroup").join(group).join("memory.max")).ok()
    });
    limits.filter_map(|limit| limit.trim().parse().ok()).reduce(f64::min)
}

fn memory() -> Vec<Finding> {
    let total = meminfo(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
    let free = available_bytes();
    let available = Finding::number(CHECK, "memory free", free / GIB, "GiB");
    let little = "less than 1 GiB is free; hint: ask for more memory, or look who else uses this machine";
    let mut findings = vec![
        Finding::number(CHECK, "memory", total / GIB, "GiB"),
        if free < LEAST_FREE_BYTES { available.fail(little) } else { available },
    ];
    if let Some(limit) = memory_limit_bytes() {
        findings.push(Finding::number(CHECK, "memory limit of the job", limit / GIB, "GiB"));
    }
    findings
}

/// The C library, as its own tool tells.
fn libc() -> String {
    let told = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let told = told.ok().filter(|output| output.status.success());
    let text = told.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|| "not told: no getconf here".to_owned())
}

/// Who else computes here. The ranks themselves have only begun.
fn load() -> Option<Finding> {
    let text = read("/proc/loadavg");
    let load: f64 = text.split_whitespace().next()?.parse().ok()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let finding = Finding::number(CHECK, "load before", load, "");
    Some(match load > (0.5 * cores).max(1.0) {
        true => finding.warn(format!(
            "{load} threads were ready to run over the last minute, on {cores} cores: others use this machine, and \
             every rate below is theirs too; hint: ask for whole nodes (--exclusive)"
        )),
        false => finding,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_named_on_both_architectures() {
        assert_eq!(model("processor\t: 0\nmodel name\t: AMD EPYC 7543\n"), "AMD EPYC 7543");
        let arm = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd4f\n";
        assert_eq!(model(arm), "Arm, implementer 0x41, part 0xd4f");
    }

    #[test]
    fn lists_and_sizes_of_linux_are_read() {
        assert_eq!(numbers("0-2,8"), [0, 1, 2, 8]);
        let text = "MemTotal:       2048 kB\nMemAvailable:   1024 kB\n";
        assert_eq!(meminfo(text, "MemAvailable"), Some(1024.0 * 1024.0));
        assert_eq!(meminfo(text, "MemFree"), None);
    }
}
