//! Which network NCCL has chosen. It tells in its log alone, so a program that wants to know starts itself again with
//! the log on, before anything else.

use std::path::{Path, PathBuf};

use super::fabric::{self, Adapter};
use super::finding::Finding;

const CHECK: &str = "nccl";

/// The variables that make NCCL write into [`log_file`].
#[cfg_attr(not(feature = "nccl"), allow(dead_code, reason = "asked for in builds with NCCL"))]
pub(crate) fn log_variables() -> [(&'static str, String); 3] {
    let file = log_file().display().to_string();
    [
        ("NCCL_DEBUG", "INFO".to_owned()),
        ("NCCL_DEBUG_SUBSYS", "INIT,NET".to_owned()),
        ("NCCL_DEBUG_FILE", file),
    ]
}

/// Of this process, which keeps its number when it starts itself again.
pub(crate) fn log_file() -> PathBuf {
    std::env::temp_dir().join(format!("tisserand-nccl-{}.log", std::process::id()))
}

/// Reads the log and removes it.
pub(super) fn check(version: &str, adapters: &[Adapter], hosts: usize) -> Vec<Finding> {
    let file = log_file();
    let log = std::fs::read_to_string(&file).unwrap_or_default();
    let _ = std::fs::remove_file(&file);
    vec![Finding::text(CHECK, "version", version), judge(&log, &file, adapters, hosts)]
}

fn judge(log: &str, file: &Path, adapters: &[Adapter], hosts: usize) -> Finding {
    match network(log) {
        Some(network) if network.eq_ignore_ascii_case("socket") => {
            let finding = Finding::text(CHECK, "network", network);
            let hint = "load the site's NCCL module with its plugin (aws-ofi-nccl on Slingshot), look at NCCL_IB_HCA, and \
                        set NCCL_NET so that it fails instead";
            fabric::sockets_instead(finding, adapters, hosts, hint)
        }
        Some(network) => Finding::text(CHECK, "network", network),
        None if hosts == 1 => Finding::text(CHECK, "network", "not told: one host"),
        None => Finding::text(CHECK, "network", "not told").warn(format!(
            "NCCL's log {} names no network; hint: NCCL_DEBUG=INFO tisserand doctor",
            file.display()
        )),
    }
}

/// The last "Using network NAME" of a log.
fn network(log: &str) -> Option<&str> {
    let name = log.lines().rev().find_map(|line| line.split_once("Using network "))?.1;
    Some(name.trim()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::finding::{Value, Verdict};
    use super::*;

    #[test]
    fn the_network_is_read_from_the_log() {
        let log = "r1i0n0:71:90 [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/IB [RO]; OOB ib0:10.0.0.1<0>\n\
                   r1i0n0:71:90 [0] NCCL INFO Using network IB\n";
        assert_eq!(network(log), Some("IB"));
        assert_eq!(network("n:1:1 [0] NCCL INFO Using network AWS Libfabric\n"), Some("AWS Libfabric"));
        assert_eq!(network("nothing of the kind"), None);
    }

    #[test]
    fn a_log_without_a_network_is_a_warning_between_hosts() {
        let finding = judge("", Path::new("/tmp/log"), &[], 2);
        assert_eq!((finding.verdict, finding.value), (Verdict::Warn, Value::Text("not told".into())));
        assert_eq!(judge("", Path::new("/tmp/log"), &[], 1).verdict, Verdict::Ok);
    }
}
