//! The CPUs of this machine as Linux tells them: lists such as "0-3,8". A CPU here is a hardware thread.

use std::fs;

/// CPUs that this process may run on; empty where the system does not tell.
pub(crate) fn allowed() -> Vec<usize> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    parse(list.unwrap_or_default())
}

/// All that run; empty where the system does not tell.
pub(super) fn online() -> Vec<usize> {
    parse(&fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default())
}

/// The NUMA nodes of these CPUs.
pub(super) fn numa_nodes(cpus: &[usize]) -> Vec<usize> {
    const NODES: &str = "/sys/devices/system/node";
    let nodes = parse(&fs::read_to_string(format!("{NODES}/online")).unwrap_or_default());
    let has_some = |node: &usize| {
        let list = fs::read_to_string(format!("{NODES}/node{node}/cpulist")).unwrap_or_default();
        parse(&list).iter().any(|cpu| cpus.contains(cpu))
    };
    nodes.into_iter().filter(has_some).collect()
}

/// The numbers of a list. What is no number is passed over: it comes from the kernel.
pub(crate) fn parse(list: &str) -> Vec<usize> {
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<usize>().ok()?..=last.parse().ok()?)
    };
    list.trim().split(',').filter_map(range).flatten().collect()
}

/// The list of these numbers, which ascend.
pub(crate) fn list(numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b);
    let text = |run: &[usize]| match run {
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    };
    runs.map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written_as_linux_does() {
        for text in ["0", "0-3", "0-3,8", "2,4-5,7-63"] {
            assert_eq!(list(&parse(text)), text);
        }
        assert_eq!(parse("0-2,8\n"), [0, 1, 2, 8]);
        assert_eq!((parse(""), list(&[])), (vec![], String::new()));
    }

    #[test]
    fn this_machine_tells_its_cpus() {
        let (allowed, online) = (allowed(), online());
        assert!(
            !allowed.is_empty() && allowed.iter().all(|cpu| online.contains(cpu)),
            "{allowed:?} {online:?}"
        );
    }
}
