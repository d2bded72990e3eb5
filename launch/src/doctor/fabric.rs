//! What fast network the machine has, whether or not anybody uses it: InfiniBand (also Omni-Path and RoCE), Slingshot.

use std::fs;
use std::path::Path;

use super::finding::Finding;

const CHECK: &str = "fabric";

/// A network adapter that is not for sockets alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Adapter {
    name: String,
    /// As the kernel words it: "200 Gb/sec (4X HDR)"; empty if it does not.
    rate: String,
    is_up: bool,
}

/// The adapters in `sys`, which is `/sys` but for tests.
pub(super) fn adapters(sys: &Path) -> Vec<Adapter> {
    let names = |folder: &str| {
        let entries = fs::read_dir(sys.join(folder)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    let read = |path: String| fs::read_to_string(sys.join(path)).unwrap_or_default().trim().to_owned();
    let infiniband = names("class/infiniband").into_iter().map(|name| {
        let port = format!("class/infiniband/{name}/ports/1");
        // "4: ACTIVE"
        let (rate, state) = (read(format!("{port}/rate")), read(format!("{port}/state")));
        Adapter { name, rate, is_up: state.contains("ACTIVE") }
    });
    // A Slingshot adapter may show in both; then under its own name only.
    let slingshot =
        names("class/cxi").into_iter().map(|name| Adapter { name, rate: String::new(), is_up: true });
    let hsn = names("class/net").into_iter().filter(|name| name.starts_with("hsn")).map(|name| {
        let is_up = read(format!("class/net/{name}/operstate")) == "up";
        Adapter { name, rate: String::new(), is_up }
    });
    infiniband.chain(slingshot).chain(hsn).collect()
}

/// Whether another way than sockets leads to other nodes.
pub(super) fn is_there(adapters: &[Adapter]) -> bool {
    adapters.iter().any(|adapter| adapter.is_up)
}

pub(super) fn check(adapters: &[Adapter]) -> Finding {
    let shown = |adapter: &Adapter| match (adapter.is_up, adapter.rate.as_str()) {
        (false, _) => format!("{} (down)", adapter.name),
        (true, "") => adapter.name.clone(),
        (true, rate) => format!("{} {rate}", adapter.name),
    };
    if adapters.is_empty() {
        return Finding::text(CHECK, "adapters", "none: other nodes are reached by sockets");
    }
    let finding = Finding::text(CHECK, "adapters", adapters.iter().map(shown).collect::<Vec<_>>().join(", "));
    match adapters.iter().any(|adapter| !adapter.is_up) {
        true => {
            finding.warn("an adapter is down; hint: if other nodes of this kind have it up, tell the site")
        }
        false => finding,
    }
}

/// A library that took `chosen` where there is a fabric: on several hosts that is a failure.
pub(super) fn sockets_instead(
    finding: Finding,
    adapters: &[Adapter],
    hosts: usize,
    what_to_do: &str,
) -> Finding {
    let names: Vec<&str> =
        adapters.iter().filter(|adapter| adapter.is_up).map(|adapter| adapter.name.as_str()).collect();
    let advice = format!("sockets, although there is {}; hint: {what_to_do}", names.join(", "));
    match (names.is_empty(), hosts) {
        (true, _) => finding,
        (false, 1) => finding.warn(format!("{advice} (one host: nothing is lost yet)")),
        (false, _) => finding.fail(advice),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    fn sys(files: &[(&str, &str)]) -> Vec<Adapter> {
        let sys = std::env::temp_dir().join(format!("tisserand-sys-{}-{}", std::process::id(), files.len()));
        for (path, text) in files {
            fs::create_dir_all(sys.join(path).parent().unwrap()).unwrap();
            fs::write(sys.join(path), text).unwrap();
        }
        let found = adapters(&sys);
        fs::remove_dir_all(&sys).unwrap();
        found
    }

    #[test]
    fn adapters_are_found_with_their_rates_and_states() {
        let found = sys(&[
            ("class/infiniband/mlx5_0/ports/1/rate", "200 Gb/sec (4X HDR)\n"),
            ("class/infiniband/mlx5_0/ports/1/state", "4: ACTIVE\n"),
            ("class/infiniband/mlx5_1/ports/1/state", "1: DOWN\n"),
            ("class/net/hsn0/operstate", "up\n"),
            ("class/net/eth0/operstate", "up\n"),
        ]);
        let told = check(&found);
        assert_eq!(told.verdict, Verdict::Warn);
        let expected =
            super::super::finding::Value::Text("mlx5_0 200 Gb/sec (4X HDR), mlx5_1 (down), hsn0".into());
        assert_eq!(told.value, expected);
        assert!(is_there(&found));
    }

    #[test]
    fn sockets_beside_a_fabric_are_a_failure_between_hosts() {
        let up = [Adapter { name: "mlx5_0".into(), rate: String::new(), is_up: true }];
        let finding = || Finding::text("nccl", "network", "Socket");
        assert_eq!(sockets_instead(finding(), &up, 2, "look").verdict, Verdict::Fail);
        assert_eq!(sockets_instead(finding(), &up, 1, "look").verdict, Verdict::Warn);
        assert_eq!(sockets_instead(finding(), &[], 2, "look").verdict, Verdict::Ok);
        let advice = sockets_instead(finding(), &up, 2, "look").advice;
        assert_eq!(advice, "sockets, although there is mlx5_0; hint: look");
    }
}
