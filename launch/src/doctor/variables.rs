//! Environment variables that are known to make runs slow or to break them, and are often left over.

use super::finding::Finding;

const CHECK: &str = "variables";

/// How a variable hurts.
struct Harm {
    name: &'static str,
    /// Of its value.
    hurts: fn(&str) -> bool,
    why: &'static str,
}

fn set(value: &str) -> bool {
    !value.is_empty()
}

fn on(value: &str) -> bool {
    !["", "0"].contains(&value)
}

fn names_tcp(value: &str) -> bool {
    value.split(',').any(|name| name.trim() == "tcp")
}

const HARMS: [Harm; 16] = [
    Harm { name: "NCCL_IB_DISABLE", hurts: on, why: "NCCL leaves InfiniBand alone and takes sockets" },
    Harm {
        name: "NCCL_P2P_DISABLE",
        hurts: on,
        why: "GPUs of a node reach each other through the host's memory",
    },
    Harm { name: "NCCL_SHM_DISABLE", hurts: on, why: "GPUs of a node reach each other through the network" },
    Harm {
        name: "NCCL_NET",
        hurts: |value| value.eq_ignore_ascii_case("socket"),
        why: "NCCL takes sockets, whatever network there is",
    },
    Harm {
        name: "NCCL_SOCKET_IFNAME",
        hurts: |value| value.starts_with("lo"),
        why: "no other node is reached so",
    },
    Harm { name: "NCCL_ALGO", hurts: set, why: "NCCL does not choose by size any more" },
    Harm { name: "NCCL_PROTO", hurts: set, why: "NCCL does not choose by size any more" },
    Harm {
        name: "NCCL_COMM_BLOCKING",
        hurts: on,
        why: "a collective that hangs is not ended when a rank dies or the time is up",
    },
    Harm { name: "NCCL_COMM_ID", hurts: set, why: "all communicators would be started at one address" },
    Harm { name: "NCCL_DEBUG", hurts: |value| value == "TRACE", why: "every call is logged" },
    Harm {
        name: "CUDA_LAUNCH_BLOCKING",
        hurts: on,
        why: "the host waits for every kernel: nothing overlaps",
    },
    Harm {
        name: "OMPI_MCA_btl",
        hurts: names_tcp,
        why: "MPI takes sockets, also where there is a faster way",
    },
    Harm { name: "UCX_TLS", hurts: names_tcp, why: "MPI takes sockets, also where there is a faster way" },
    Harm {
        name: "FI_PROVIDER",
        hurts: names_tcp,
        why: "MPI and NCCL take sockets, also where there is a faster way",
    },
    Harm { name: "MALLOC_CHECK_", hurts: on, why: "every allocation is checked" },
    Harm { name: "LD_PRELOAD", hurts: set, why: "another library stands before the program's own" },
];

/// `lookup` finds the value of a variable.
pub(super) fn check(lookup: &dyn Fn(&str) -> Option<String>) -> Vec<Finding> {
    let found = HARMS.iter().filter_map(|harm| {
        let value = lookup(harm.name).filter(|value| (harm.hurts)(value))?;
        let advice =
            format!("{}={value}: {}; hint: unset {}, if it is left over", harm.name, harm.why, harm.name);
        Some(Finding::text(CHECK, harm.name, value).warn(advice))
    });
    let found: Vec<Finding> = found.collect();
    if found.is_empty() { vec![Finding::text(CHECK, "environment", "nothing known to hurt")] } else { found }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn harmful_values_are_told_and_harmless_ones_are_not() {
        let all = [
            ("NCCL_IB_DISABLE", "0"),
            ("OMPI_MCA_btl", "self, tcp"),
            ("NCCL_NET", "IB"),
            ("UCX_TLS", "rc,sm"),
        ];
        let lookup = |name: &str| all.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        let found = check(&lookup);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].name.as_str(), found[0].verdict), ("OMPI_MCA_btl", Verdict::Warn));
        assert!(found[0].advice.ends_with("hint: unset OMPI_MCA_btl, if it is left over"), "{found:?}");
        assert_eq!(check(&|_| None)[0].verdict, Verdict::Ok);
    }
}
