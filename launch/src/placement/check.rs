//! Ranks that share what they should not.
//!
//! A GPU is one process's: two would halve its memory and queue behind each other, and NCCL refuses them. CPUs may be
//! shared: tests and laptops have more ranks than CPUs. But a launcher that *binds* several ranks to one CPU was told
//! something that nobody means (`srun` without `--cpus-per-task`, say), and the run would be many times slower than
//! its machine: that is refused, unless the run file says that it is meant.

use std::collections::HashMap;

use tisserand_runtime::run::HostRow;
use tisserand_runtime::{Error, Result};

use super::cpus;

/// Refuses two processes on one GPU.
pub(super) fn gpus(rows: &[HostRow]) -> Result<()> {
    let mut users: HashMap<(&str, &str), &HostRow> = HashMap::new();
    for row in rows {
        let Some(gpu) = &row.gpu else { continue };
        let first = *users.entry((&row.host, &gpu.bus_id)).or_insert(row);
        if first.pid != row.pid {
            return Err(Error::input(format!(
                "ranks {} and {} are both on GPU {} ({}, {}) of {}; hint: one rank for each GPU, and look at \
                 CUDA_VISIBLE_DEVICES and at how the launcher binds GPUs",
                first.rank, row.rank, gpu.index, gpu.name, gpu.bus_id, row.host
            )));
        }
    }
    Ok(())
}

/// Refuses processes that are bound and have less than a CPU each, unless they may; a warning about others.
pub(super) fn cpus(rows: &[HostRow], may_oversubscribe: bool) -> Result<Option<String>> {
    let processes = processes(rows);
    let allowed: Vec<Vec<usize>> = processes.iter().map(|row| cpus::parse(&row.cpus)).collect();
    let mut users: HashMap<(&str, usize), usize> = HashMap::new();
    for (row, cpus) in processes.iter().zip(&allowed) {
        cpus.iter().for_each(|cpu| *users.entry((&row.host, *cpu)).or_default() += 1);
    }
    let mut short = processes.iter().zip(&allowed).filter(|(row, cpus)| {
        let share: f64 = cpus.iter().map(|cpu| 1.0 / users[&(row.host.as_str(), *cpu)] as f64).sum();
        // Thirds add up to a little less than one. Where the system tells nothing there is nothing to check.
        !cpus.is_empty() && share < 1.0 - 1e-6
    });
    let Some((first, _)) = short.next() else { return Ok(None) };
    let with = |row: &&&HostRow| row.host == first.host && row.cpus == first.cpus;
    let ranks: Vec<usize> = processes.iter().filter(with).map(|row| row.rank).collect();
    let what = format!(
        "ranks {} share CPU {} of {}, less than one each",
        cpus::list(&ranks),
        first.cpus,
        first.host
    );
    if first.bound && !may_oversubscribe {
        return Err(Error::input(format!(
            "{what}, and are bound to it; hint: srun --cpus-per-task=N, mpirun --bind-to none, or run.oversubscribe = \
             true if it is meant"
        )));
    }
    Ok(Some(what))
}

/// Of the ranks of one process, which share its CPUs by themselves, the first.
fn processes(rows: &[HostRow]) -> Vec<&HostRow> {
    let mut seen = std::collections::HashSet::new();
    rows.iter().filter(|row| seen.insert((&row.host, row.pid))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::{gpu, row};
    use super::*;

    /// "host cpus" of each rank; bound if followed by "!".
    fn of(places: &[&str], may: bool) -> Result<Option<String>> {
        let rows: Vec<HostRow> = places
            .iter()
            .enumerate()
            .map(|(rank, place)| {
                let (place, bound) = place.strip_suffix('!').map_or((*place, false), |place| (place, true));
                let (host, cpus) = place.split_once(' ').unwrap();
                HostRow { bound, ..row(rank, host, cpus) }
            })
            .collect();
        cpus(&rows, may)
    }

    #[test]
    fn ranks_with_a_cpu_each_are_passed() {
        for places in [
            &["a 0-63"; 4][..],
            &["a 0!", "a 1!", "b 0!"],
            &["a 0-1!", "a 0-1!"],
            &["a 0-2!", "a 0-2!", "a 0-2!"],
            &["a ", "a "],
        ] {
            assert_eq!(of(places, false).unwrap(), None, "{places:?}");
        }
    }

    #[test]
    fn less_than_a_cpu_each_is_refused_to_bound_ranks_and_a_warning_to_others() {
        let warning = of(&["b 0-1", "a 0-1", "a 0-1", "a 0-1"], false).unwrap().unwrap();
        assert_eq!(warning, "ranks 1-3 share CPU 0-1 of a, less than one each");
        let error = of(&["a 0!", "a 1!", "a 0!"], false).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(
            text.starts_with("ranks 0,2 share CPU 0 of a, less than one each, and are bound to it; hint: ")
        );
        assert!(text.contains("run.oversubscribe") && !text.contains('\n'), "{text}");
        assert!(of(&["a 0!", "a 1!", "a 0!"], true).unwrap().is_some());
    }

    #[test]
    fn ranks_of_one_process_share_what_it_has() {
        let rows: Vec<HostRow> =
            (0..8).map(|rank| HostRow { pid: 7, gpu: Some(gpu(0, "x")), ..row(rank, "a", "0-1") }).collect();
        assert_eq!(cpus(&rows, false).unwrap(), None);
        gpus(&rows).unwrap();
    }

    #[test]
    fn two_processes_on_one_gpu_are_refused_by_its_place() {
        let place = |rank, host, index, bus| HostRow { gpu: Some(gpu(index, bus)), ..row(rank, host, "0") };
        // Each process may see its own GPU as number 0.
        gpus(&[place(0, "a", 0, "1B"), place(1, "a", 0, "2B"), place(2, "b", 0, "1B")]).unwrap();
        let error = gpus(&[place(0, "a", 0, "1B"), place(1, "b", 0, "1B"), place(2, "b", 3, "1B")]);
        let text = error.unwrap_err().to_string();
        assert!(text.starts_with("ranks 1 and 2 are both on GPU 3 (H100, 1B) of b; hint: "), "{text}");
    }
}
