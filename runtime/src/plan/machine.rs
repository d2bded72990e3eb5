//! How fast a machine is: a profile of datasheet constants, one calibration for all profiles, and the two
//! formulas made of them, a roofline for ops and alpha-beta for collectives. `docs/planner.md` states both.

use serde::Deserialize;
use tisserand_collectives::{Axis, Collective, Mesh};
use tisserand_kernels::device::Caps;
use tisserand_kernels::{Cost, DType};

use super::timeline::Begun;
use crate::config::one_of;
use crate::error::{Error, Result};

/// What plans must know of a CUDA device.
pub const CUDA_CAPS: Caps = Caps::CUDA;

const PROFILES: [(&str, &str); 9] = [
    ("h100-sxm", include_str!("profiles/h100-sxm.toml")),
    ("h200", include_str!("profiles/h200.toml")),
    ("a100-80gb", include_str!("profiles/a100-80gb.toml")),
    ("gh200", include_str!("profiles/gh200.toml")),
    ("gb200", include_str!("profiles/gb200.toml")),
    ("jeanzay-h100", include_str!("profiles/jeanzay-h100.toml")),
    ("jeanzay-a100", include_str!("profiles/jeanzay-a100.toml")),
    ("leonardo", include_str!("profiles/leonardo.toml")),
    ("mn5", include_str!("profiles/mn5.toml")),
];

/// Beginnings of the names of ops whose FLOPs are matrix products.
const PRODUCTS: [&str; 2] = ["gemm::", "cross_entropy::linear"];

/// A GPU, by its datasheet.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// For people.
    pub name: String,
    /// Dense, on tensor cores.
    pub bf16_flop_per_s: f64,
    /// Outside of tensor cores.
    pub f32_flop_per_s: f64,
    /// Of its memory.
    pub memory_bytes_per_s: f64,
    /// Its memory.
    pub memory_bytes: u64,
}

/// GPUs that share fast links, and what leads out of there. Bandwidths are per GPU and direction.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// GPUs.
    pub gpus: usize,
    /// Between them.
    pub link_bytes_per_s: f64,
    /// To other nodes.
    pub nic_bytes_per_s: f64,
}

/// What is reached of a datasheet; `profiles/calibration.toml` says from where each number is.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "each is explained in calibration.toml, which is part of docs/planner.md")]
pub struct Calibration {
    pub gemm: f64,
    pub attention_forward: f64,
    pub attention_backward: f64,
    pub sustained: f64,
    pub bandwidth: f64,
    pub launch_s: f64,
    pub link: f64,
    pub nic: f64,
    pub collective_s: f64,
    pub ring_link_s: f64,
    pub ring_nic_s: f64,
    pub tree_link_s: f64,
    pub tree_nic_s: f64,
    pub context_bytes: u64,
    pub communicator_bytes: u64,
}

/// A profile as it stands in its file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProfileFile {
    /// A profile whose GPU this one has.
    base: Option<String>,
    gpu: Option<Gpu>,
    node: Node,
    calibration: Option<Calibration>,
}

/// GPUs, network, and what is reached of both.
#[derive(Clone, PartialEq, Debug)]
pub struct Machine {
    /// The profile's name.
    pub name: String,
    /// Every GPU.
    pub gpu: Gpu,
    /// Every node.
    pub node: Node,
    /// For all.
    pub calibration: Calibration,
}

/// What an op waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Roof {
    /// Arithmetic.
    Compute,
    /// Bytes.
    Memory,
}

/// The wires that a collective fills.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wire {
    /// Inside of a node.
    Link,
    /// Between nodes.
    Nic,
}

/// A collective on a machine.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Transfer {
    /// What limits it.
    pub wire: Wire,
    /// Seconds that do not depend on bytes, nor on what else is on the wire.
    pub latency_s: f64,
    /// Seconds for the bytes, alone on the wire.
    pub bytes_s: f64,
}

/// How the ranks of one axis lie on nodes.
struct Spread {
    ranks: f64,
    /// Of one group, in one node.
    here: f64,
    nodes: f64,
}

impl Machine {
    /// The names of the profiles that come with the program.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PROFILES.iter().map(|(name, _)| *name)
    }

    /// The profile of that name, or in the file of that path (`*.toml`).
    ///
    /// # Errors
    /// Input, if there is none or its text is not understood.
    pub fn load(name: &str) -> Result<Machine> {
        if let Some((name, text)) = PROFILES.iter().find(|(known, _)| *known == name) {
            return Self::parse(name, text);
        }
        let path = std::path::Path::new(name);
        if path.extension().is_some_and(|extension| extension == "toml") {
            let text = std::fs::read_to_string(path)
                .map_err(|error| crate::files::io_error("read the profile", path, &error))?;
            return Self::parse(name, &text);
        }
        let known = one_of(Self::names());
        Err(Error::input(format!("no profile {name:?}: {known}, or a file FILE.toml (docs/planner.md)")))
    }

    /// A profile's text.
    ///
    /// # Errors
    /// Input, if it is not understood.
    pub fn parse(name: &str, text: &str) -> Result<Machine> {
        let wrong = |error: &dyn std::fmt::Display| {
            let error = error.to_string();
            let line = error.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
            Error::input(format!("profile {name}: {line}"))
        };
        let file: ProfileFile = toml::from_str(text).map_err(|error| wrong(&error))?;
        let gpu = match (file.gpu, file.base) {
            (Some(gpu), None) => gpu,
            (None, Some(base)) => Self::load(&base)?.gpu,
            _ => return Err(wrong(&"either [gpu] or base = \"PROFILE\"")),
        };
        let calibration = match file.calibration {
            Some(calibration) => calibration,
            None => {
                toml::from_str(include_str!("profiles/calibration.toml")).map_err(|error| wrong(&error))?
            }
        };
        if file.node.gpus == 0 {
            return Err(wrong(&"node.gpus = 0, expected at least 1"));
        }
        Ok(Machine { name: name.to_owned(), gpu, node: file.node, calibration })
    }

    /// Peak of matrix products in that type.
    pub fn peak_flop_per_s(&self, dtype: DType) -> f64 {
        if dtype == DType::Bf16 { self.gpu.bf16_flop_per_s } else { self.gpu.f32_flop_per_s }
    }

    /// Seconds of an op, launch apart, and the roof that it touches.
    pub fn op(&self, cost: &Cost, compute: DType) -> (f64, Roof) {
        let calibration = &self.calibration;
        let product_flop_per_s = calibration.sustained * self.peak_flop_per_s(compute);
        let flop_per_s = match cost.op {
            op if PRODUCTS.iter().any(|products| op.starts_with(products)) => {
                calibration.gemm * product_flop_per_s
            }
            "attention::forward" => calibration.attention_forward * product_flop_per_s,
            "attention::backward" => calibration.attention_backward * product_flop_per_s,
            _ => self.gpu.f32_flop_per_s,
        };
        let flops_s = cost.flops as f64 / flop_per_s;
        let bytes_s = cost.bytes as f64 / (calibration.bandwidth * self.gpu.memory_bytes_per_s);
        if flops_s > bytes_s { (flops_s, Roof::Compute) } else { (bytes_s, Roof::Memory) }
    }

    /// A collective of a mesh on this machine; `None` where there is nobody else on the axis.
    pub fn transfer(&self, mesh: &Mesh, begun: &Begun) -> Option<Transfer> {
        let Spread { ranks, here, nodes } = self.spread(mesh, begun.queue.axis())?;
        let calibration = &self.calibration;
        let sent_bytes = begun.kind.sent_per_payload(ranks as usize) * begun.payload_bytes as f64;
        // A ring enters and leaves a node as often as it has adapters: each of this group's ranks brings one.
        let nic_bytes = match begun.kind {
            _ if nodes == 1.0 => 0.0,
            Collective::AllToAll => begun.payload_bytes as f64 * (ranks - here) / ranks,
            _ => sent_bytes / here,
        };
        let link_bytes = if here > 1.0 { sent_bytes } else { 0.0 };
        let link_s = link_bytes / (calibration.link * self.node.link_bytes_per_s);
        let nic_s = nic_bytes / (calibration.nic * self.node.nic_bytes_per_s);
        let (wire, bytes_s) = if nic_s > link_s { (Wire::Nic, nic_s) } else { (Wire::Link, link_s) };
        let ring = (ranks - nodes) * calibration.ring_link_s + (nodes - 1.0) * calibration.ring_nic_s;
        let hops_s = match begun.kind {
            Collective::AllReduce => {
                let across = nodes.log2().ceil() * calibration.tree_nic_s;
                let tree = (here - 1.0) * calibration.tree_link_s + across;
                2.0 * ring.min(tree)
            }
            Collective::AllGather | Collective::ReduceScatter | Collective::AllToAll => ring,
            _ if nodes > 1.0 => calibration.ring_nic_s,
            _ => calibration.ring_link_s,
        };
        Some(Transfer { wire, latency_s: calibration.collective_s + hops_s, bytes_s })
    }

    /// `None` for an axis of one rank.
    fn spread(&self, mesh: &Mesh, axis: Axis) -> Option<Spread> {
        let ranks = mesh.size(axis);
        // Neighbours on the axis are this many ranks apart.
        let stride: usize = Axis::ALL[axis as usize + 1..].iter().map(|inner| mesh.size(*inner)).product();
        let here = (self.node.gpus / stride).clamp(1, ranks);
        let spread = Spread { ranks: ranks as f64, here: here as f64, nodes: ranks.div_ceil(here) as f64 };
        (ranks > 1).then_some(spread)
    }

    /// Memory that a rank needs beside its arena.
    pub fn outside_bytes(&self, mesh: &Mesh) -> u64 {
        let queues = tisserand_collectives::Queue::ALL.into_iter();
        let communicators = queues.filter(|queue| mesh.size(queue.axis()) > 1).count() as u64;
        self.calibration.context_bytes + communicators * self.calibration.communicator_bytes
    }

    /// Memory that an arena may take.
    pub fn arena_capacity_bytes(&self, mesh: &Mesh) -> u64 {
        self.gpu.memory_bytes.saturating_sub(self.outside_bytes(mesh))
    }
}
