//! The table of ranks, for people: hosts that look alike are one line.

use tisserand_runtime::run::{GpuRow, HostRow};

use super::cpus;
use crate::hostlist;

const HEAD: [&str; 5] = ["hosts", "ranks", "device", "CPUs of each rank", "NUMA"];

/// So many lists are shown before the rest is left out.
const LISTS_MAX: usize = 8;

/// Hosts that look alike.
struct Group {
    hosts: Vec<String>,
    ranks: Vec<usize>,
    look: Look,
}

/// What is the same on hosts that are one line.
#[derive(PartialEq, Eq)]
struct Look {
    ranks: usize,
    device: String,
    cpus: String,
    numa: String,
}

/// A head and a line for each group of hosts, in columns.
pub(super) fn lines(rows: &[HostRow]) -> Vec<String> {
    let mut table = vec![HEAD.map(str::to_owned)];
    for Group { hosts, mut ranks, look } in groups(rows) {
        ranks.sort_unstable();
        let Look { device, cpus, numa, .. } = look;
        table.push([hostlist::compress(&hosts), cpus::list(&ranks), device, cpus, numa]);
    }
    let width = |column: usize| table.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    let line = |cells: &[String; 5]| {
        let cells = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    table.iter().map(line).collect()
}

fn groups(rows: &[HostRow]) -> Vec<Group> {
    let mut hosts: Vec<(&str, Vec<&HostRow>)> = Vec::new();
    for row in rows {
        match hosts.iter_mut().find(|(host, _)| *host == row.host) {
            Some((_, rows)) => rows.push(row),
            None => hosts.push((&row.host, vec![row])),
        }
    }
    let mut groups: Vec<Group> = Vec::new();
    for (host, rows) in hosts {
        let (look, ranks) = (Look::of(&rows), rows.iter().map(|row| row.rank));
        match groups.iter_mut().find(|group| group.look == look) {
            Some(group) => {
                group.hosts.push(host.to_owned());
                group.ranks.extend(ranks);
            }
            None => groups.push(Group { hosts: vec![host.to_owned()], ranks: ranks.collect(), look }),
        }
    }
    groups
}

impl Look {
    fn of(rows: &[&HostRow]) -> Self {
        Look {
            ranks: rows.len(),
            device: devices(rows),
            cpus: lists(rows.iter().map(|row| row.cpus.as_str())),
            numa: lists(rows.iter().map(|row| row.numa.as_str())),
        }
    }
}

/// "GPU 0-3 NVIDIA H100"; what differs stands one after the other.
fn devices(rows: &[&HostRow]) -> String {
    let gpus: Option<Vec<&GpuRow>> = rows.iter().map(|row| row.gpu.as_ref()).collect();
    match gpus {
        Some(gpus) if gpus.iter().all(|gpu| gpu.name == gpus[0].name) => {
            let mut indices: Vec<usize> = gpus.iter().map(|gpu| gpu.index).collect();
            indices.sort_unstable();
            indices.dedup();
            format!("GPU {} {}", cpus::list(&indices), gpus[0].name)
        }
        _ => {
            let mut all: Vec<&str> = rows.iter().map(|row| row.device.as_str()).collect();
            all.dedup();
            all.join(", ")
        }
    }
}

/// One list if it is that of all, else one for each rank.
fn lists<'a>(lists: impl Iterator<Item = &'a str>) -> String {
    let all: Vec<&str> = lists.map(|list| if list.is_empty() { "-" } else { list }).collect();
    match all.as_slice() {
        [] => String::new(),
        [first, rest @ ..] if rest.iter().all(|list| list == first) => (*first).to_owned(),
        all if all.len() <= LISTS_MAX => all.join(" "),
        all => format!("{} ... {}", all[..LISTS_MAX - 1].join(" "), all[all.len() - 1]),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An H100 of this number, here.
    pub(in super::super) fn gpu(index: usize, bus_id: &str) -> GpuRow {
        GpuRow { index, name: "H100".to_owned(), bus_id: bus_id.to_owned() }
    }

    /// A rank of a process of its own.
    pub(in super::super) fn row(rank: usize, host: &str, cpus: &str) -> HostRow {
        HostRow {
            rank,
            local_rank: 0,
            host: host.to_owned(),
            node: None,
            pid: 100 + rank as u32,
            device: "2 CPU threads".to_owned(),
            gpu: None,
            cpus: cpus.to_owned(),
            bound: false,
            numa: "0".to_owned(),
        }
    }

    #[test]
    fn hosts_that_look_alike_are_one_line() {
        let mut rows = Vec::new();
        for host in 0..4 {
            for local in 0..4 {
                let rank = 4 * host + local;
                let cpus = format!("{}-{}", 24 * local, 24 * local + 23);
                let name = format!("jzxh{:03}", 68 + host);
                let row = row(rank, &name, &cpus);
                rows.push(HostRow { gpu: Some(gpu(local, "1B")), numa: (local / 2).to_string(), ..row });
            }
        }
        // One host gives its ranks all of its CPUs.
        rows[8..12].iter_mut().for_each(|row| row.cpus = "0-95".to_owned());
        let expected = [
            "hosts               ranks       device        CPUs of each rank        NUMA",
            "jzxh[068-069,071]   0-7,12-15   GPU 0-3 H100  0-23 24-47 48-71 72-95   0 0 1 1",
            "jzxh070             8-11        GPU 0-3 H100  0-95                     0 0 1 1",
        ];
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines = lines(&rows);
        assert_eq!(lines.iter().map(|l| words(l)).collect::<Vec<_>>(), expected.map(words));
        assert_eq!(lines[0].find("device"), lines[1].find("GPU"));
        assert!(lines.iter().all(|line| !line.ends_with(' ')), "{lines:#?}");
    }

    #[test]
    fn devices_that_differ_are_all_named() {
        let rows = [row(0, "a", "0"), HostRow { device: "1 CPU thread".to_owned(), ..row(1, "a", "1") }];
        assert!(lines(&rows)[1].contains("2 CPU threads, 1 CPU thread"));
        let many: Vec<HostRow> = (0..20).map(|rank| row(rank, "a", &rank.to_string())).collect();
        assert!(lines(&many)[1].contains("0 1 2 3 4 5 6 ... 19"), "{:?}", lines(&many));
    }
}
