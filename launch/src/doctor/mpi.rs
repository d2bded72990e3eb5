//! Which MPI library, and what it moves messages with.
//!
//! Open MPI 4 has a plugin for each way, and closes those that it does not use: what is loaded tells. Other libraries
//! have all ways in one file and tell nothing.

use super::fabric::{self, Adapter};
use super::finding::Finding;

const CHECK: &str = "mpi";

/// Ways that lead to other nodes by sockets, or lead nowhere.
const SLOW: [&str; 6] = ["pml_ob1", "btl_tcp", "btl_self", "btl_vader", "btl_sm", "btl_smcuda"];

/// To be called while MPI runs.
#[cfg_attr(not(feature = "mpi"), allow(dead_code, reason = "asked for in builds with MPI"))]
pub(super) fn check(version: &str, adapters: &[Adapter], hosts: usize) -> Vec<Finding> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    vec![Finding::text(CHECK, "version", version), judge(&plugins(&maps), adapters, hosts)]
}

/// Names of plugins that move messages, sorted: "btl_tcp", "pml_ob1".
fn plugins(maps: &str) -> Vec<String> {
    let files = maps.lines().filter_map(|line| line.rsplit_once("/mca_")?.1.strip_suffix(".so"));
    let moves = |name: &&str| ["pml_", "btl_", "mtl_"].iter().any(|kind| name.starts_with(kind));
    let mut plugins: Vec<String> = files.filter(moves).map(str::to_owned).collect();
    plugins.sort();
    plugins.dedup();
    plugins
}

fn judge(plugins: &[String], adapters: &[Adapter], hosts: usize) -> Finding {
    if plugins.is_empty() {
        return Finding::text(CHECK, "transport", "not told by this library");
    }
    let finding = Finding::text(CHECK, "transport", plugins.join(", "));
    match plugins.iter().all(|plugin| SLOW.contains(&plugin.as_str())) {
        true => fabric::sockets_instead(finding, adapters, hosts, "load the site's own MPI module"),
        false => finding,
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    const MAPS: &str = "\
7f1-7f2 r-xp 00000000 08:01 1  /usr/lib/x86_64-linux-gnu/openmpi/lib/openmpi3/mca_btl_tcp.so
7f1-7f2 r--p 00000000 08:01 1  /usr/lib/x86_64-linux-gnu/openmpi/lib/openmpi3/mca_btl_tcp.so
7f1-7f2 r-xp 00000000 08:01 1  /usr/lib/x86_64-linux-gnu/openmpi/lib/openmpi3/mca_pml_ob1.so
7f1-7f2 r-xp 00000000 08:01 1  /usr/lib/x86_64-linux-gnu/openmpi/lib/openmpi3/mca_coll_tuned.so
7f1-7f2 r-xp 00000000 08:01 1  /usr/lib/x86_64-linux-gnu/libc.so.6
";

    #[test]
    fn plugins_are_read_from_what_is_loaded() {
        assert_eq!(plugins(MAPS), ["btl_tcp", "pml_ob1"]);
    }

    #[test]
    fn sockets_alone_are_a_failure_where_there_is_a_fabric() {
        let sys = std::env::temp_dir().join(format!("tisserand-mpi-{}", std::process::id()));
        std::fs::create_dir_all(sys.join("class/cxi/cxi0")).unwrap();
        let adapters = fabric::adapters(&sys);
        std::fs::remove_dir_all(&sys).unwrap();
        assert_eq!(judge(&plugins(MAPS), &adapters, 2).verdict, Verdict::Fail);
        assert_eq!(judge(&plugins(MAPS), &[], 2).verdict, Verdict::Ok);
        let fast = ["pml_ucx".to_owned(), "btl_self".to_owned()];
        assert_eq!(judge(&fast, &adapters, 2).verdict, Verdict::Ok);
        assert_eq!(judge(&[], &adapters, 2).verdict, Verdict::Ok);
    }
}
