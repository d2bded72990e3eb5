//! The planner: what a timeline holds, what machines make of it, what a search finds, and the page's table.

mod published;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tisserand_collectives::{Axis, Collective, Mesh, Queue, Workspace};
use tisserand_runtime::config::Config;
use tisserand_runtime::model::Transformer;
use tisserand_runtime::plan::estimate::{Bound, Estimate};
use tisserand_runtime::plan::machine::{CUDA_CAPS, Machine, Wire};
use tisserand_runtime::plan::search::{Found, search};
use tisserand_runtime::plan::storage::Storage;
use tisserand_runtime::plan::timeline::{Begun, Event, Timeline};
use tisserand_runtime::plan::{self, PeakAt, Plan};
use tisserand_runtime::step::Action;
use tisserand_runtime::train::setup::{sharding, step_config};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn example(name: &str, sets: &[&str], ranks: usize) -> Config {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    Config::load(&root().join("examples").join(name), &sets, Some(ranks), &|_| None).unwrap()
}

fn planned(config: &Config) -> (Transformer, Plan) {
    let model = Transformer::sharded(config.model.clone(), sharding(config, 0).tp());
    let step = step_config(config, &model, 0);
    let plan = plan::train(CUDA_CAPS, &model, &step, config.training.seq_len, Workspace::None).unwrap();
    (model, plan)
}

fn recorded(config: &Config) -> Timeline {
    let model = Transformer::sharded(config.model.clone(), sharding(config, 0).tp());
    Timeline::record(CUDA_CAPS, &model, &step_config(config, &model, 0)).unwrap()
}

fn predicted(config: &Config, machine: &Machine) -> Estimate {
    Estimate::new(machine, &recorded(config), &planned(config).1.model_flops)
}

#[test]
fn the_page_has_the_table_of_published_runs() {
    let page = std::fs::read_to_string(root().join("docs/planner.md")).unwrap();
    let hint = "run: cargo run -p tisserand-runtime --example published_runs";
    assert!(page == published::insert(&page), "docs/planner.md is not what the planner says; {hint}");
}

#[test]
fn the_page_has_the_calibration() {
    let page = std::fs::read_to_string(root().join("docs/planner.md")).unwrap();
    let file = root().join("runtime/src/plan/profiles/calibration.toml");
    assert!(
        page.contains(&std::fs::read_to_string(file).unwrap()),
        "put calibration.toml into docs/planner.md"
    );
}

#[test]
fn an_8b_and_a_70b_model_are_planned_on_1024_ranks_in_ten_seconds() {
    let started = Instant::now();
    for (name, parameters) in [("llama3-8b.toml", 8_030_261_248), ("llama3-70b.toml", 70_553_706_496)] {
        let config = example(name, &[], 1024);
        let (model, plan) = planned(&config);
        assert_eq!(plan.num_parameters, parameters);
        let machine = Machine::load("h100-sxm").unwrap();
        let estimate = predicted(&config, &machine);
        assert!(
            plan.arena_bytes as u64 + machine.outside_bytes(&recorded(&config).mesh)
                < machine.gpu.memory_bytes
        );
        assert!((0.2..0.7).contains(&estimate.mfu.full), "{estimate:?}");
        assert_eq!(estimate.bound, Bound::Compute);
        let storage = Storage::new(&config, &model).unwrap();
        let state = parameters as u64 * 14;
        assert!((state..state + state / 1000).contains(&storage.checkpoint.bytes), "{storage:?}");
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn the_action_of_the_peak_is_named() {
    let (model, plan) = planned(&example("llama3-8b.toml", &[], 1024));
    let PeakAt::Action(place) = plan.peak_at else { panic!("{:?}", plan.peak_at) };
    // The last block is the first whose backward pass runs: what all blocks saved is still there.
    assert_eq!((place.action, place.micro_batch), ("backward", Some(0)));
    assert_eq!(place.unit.as_deref(), Some(model.units[model.units.len() - 2].name.as_str()));
    assert_eq!(place.to_string(), format!("backward of {}, micro-batch 0", place.unit.clone().unwrap()));
}

/// Bytes of f32 gradients with padding: of all units, and of those that backward gathers again.
fn flat_bytes(model: &Transformer, shards: usize) -> (u64, u64) {
    let unit = |unit: usize| -> u64 {
        model.units[unit].groups.iter().map(|group| 4 * group.padded_len(shards) as u64).sum()
    };
    let all = (0..model.units.len()).map(unit).sum();
    let blocks = (0..model.blocks.len()).map(|block| unit(Transformer::block_unit(block))).sum();
    (all, blocks)
}

#[test]
fn bytes_by_axis_equal_the_formulas() {
    // (dp_replicate, dp_shard, zero); four micro-batches each.
    for (replicate, shard, zero) in [(1, 8, 3), (4, 8, 3), (4, 8, 2), (4, 8, 1), (8, 1, 0), (2, 4, 0)] {
        let (batch, layers) = (4 * replicate * shard, "model.num_layers=3");
        let sets = [
            format!("mesh.dp_replicate={replicate}"),
            format!("mesh.dp_shard={shard}"),
            format!("mesh.zero={zero}"),
            format!("training.global_batch={batch}"),
        ];
        let sets: Vec<&str> = sets.iter().map(String::as_str).chain([layers]).collect();
        let (model, plan) = planned(&example("llama3-8b.toml", &sets, replicate * shard));
        let (f32_bytes, blocks) = flat_bytes(&model, shard);
        let of = |axis: Axis, kind| plan.traffic[axis as usize].of(kind).payload_bytes;
        let micro_steps = 4;
        let (scattered, gathered) = match zero {
            3 => (micro_steps * f32_bytes, micro_steps * (f32_bytes + blocks) / 2),
            2 => (micro_steps * f32_bytes, f32_bytes / 2),
            1 => (f32_bytes, f32_bytes / 2),
            _ => (0, 0),
        };
        let name = format!("{replicate} × {shard}, ZeRO {zero}");
        assert_eq!(of(Axis::DpShard, Collective::ReduceScatter), scattered, "{name}");
        assert_eq!(of(Axis::DpShard, Collective::AllGather), gathered, "{name}");
        if replicate > 1 && shard > 1 {
            let summed = if zero == 0 { f32_bytes } else { f32_bytes / shard as u64 };
            // And the two sums of losses.
            assert_eq!(of(Axis::DpReplicate, Collective::AllReduce), summed + 8, "{name}");
        }
        assert_eq!(of(Axis::Tp, Collective::AllGather), 0);
    }
}

#[test]
fn a_timeline_has_the_ops_and_collectives_of_the_plan_in_order() {
    let config = example("llama3-8b.toml", &["model.num_layers=2", "training.global_batch=32"], 16);
    let (_, plan) = planned(&config);
    let timeline = recorded(&config);
    assert_eq!((timeline.micro_steps, timeline.recorded_micro_steps), (2, 2));
    let (mut flops, mut payload, mut begun, mut waited, mut steps) = (0, 0, 0, Vec::new(), 0);
    for event in &timeline.events {
        match event {
            Event::Op(cost) => flops += cost.flops,
            Event::Begin(Begun { payload_bytes, .. }) => {
                payload += *payload_bytes as u64;
                begun += 1;
            }
            Event::Wait(number) => {
                assert!(*number < begun, "waits for what was not begun");
                waited.push(*number);
            }
            Event::StepEnd => steps += 1,
            Event::Action(_) => {}
        }
    }
    assert_eq!(steps, 2);
    assert_eq!(flops, 2 * plan.step_flops());
    let traffic: u64 =
        plan.traffic.iter().flat_map(|audit| Collective::ALL.map(|kind| audit.of(kind).payload_bytes)).sum();
    assert_eq!(payload, 2 * traffic);
    waited.sort_unstable();
    assert_eq!(waited, (0..begun).collect::<Vec<_>>(), "each is waited for once");
    assert_eq!(timeline.events[0], Event::Action(Action::Gather { unit: Transformer::EMBEDDING_UNIT }));
    let is_norm = |event: &&Event| matches!(event, Event::Action(Action::Norm));
    assert_eq!(timeline.events.iter().filter(is_norm).count(), 2);
}

#[test]
fn a_collective_takes_what_its_wires_take() {
    let mut machine = Machine::load("h100-sxm").unwrap();
    machine.node.gpus = 4;
    machine.calibration.collective_s = 0.0;
    machine.calibration.link = 1.0;
    machine.calibration.nic = 1.0;
    let transfer = |mesh: Mesh, queue, kind| {
        machine.transfer(&mesh, &Begun { queue, kind, payload_bytes: 1_000_000_000 })
    };
    let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-12, "{a} {b}");
    assert!(transfer(Mesh::new(1, 8, 1), Queue::Tp, Collective::AllGather).is_none());
    let inside = transfer(Mesh::new(4, 4, 1), Queue::Gather, Collective::AllGather).unwrap();
    assert_eq!(inside.wire, Wire::Link);
    near(inside.bytes_s, 0.75 * 1e9 / 450e9);
    near(inside.latency_s, 3.0 * 1.9e-6);
    // Eight ranks on two nodes: four adapters carry the ring.
    let across = transfer(Mesh::new(1, 8, 1), Queue::Reduce, Collective::ReduceScatter).unwrap();
    assert_eq!(across.wire, Wire::Nic);
    near(across.bytes_s, 0.875 * 1e9 / (4.0 * 50e9));
    near(across.latency_s, 6.0 * 1.9e-6 + 4e-6);
    // Replicas of shards that fill a node: each of the node's ranks has its own ring and adapter.
    let replicas = transfer(Mesh::new(4, 4, 1), Queue::Replicate, Collective::AllReduce).unwrap();
    near(replicas.bytes_s, 1.5 * 1e9 / 50e9);
    // Behind tp 2, two ranks of an axis share a node.
    let strided = transfer(Mesh::new(1, 4, 2), Queue::Gather, Collective::AllGather).unwrap();
    near(strided.bytes_s, 0.75 * 1e9 / (2.0 * 50e9));
    let exchange = transfer(Mesh::new(1, 8, 1), Queue::Gather, Collective::AllToAll).unwrap();
    near(exchange.bytes_s, 0.5 * 1e9 / 50e9);
}

#[test]
fn a_better_machine_is_never_slower() {
    let sets = ["model.num_layers=4", "mesh.dp_shard=16", "training.global_batch=128"];
    for zero in ["mesh.zero=1", "mesh.zero=2", "mesh.zero=3"] {
        let config = example("llama3-8b.toml", &[&sets[..], &[zero]].concat(), 64);
        let timeline = recorded(&config);
        let flops = planned(&config).1.model_flops;
        let seconds = |change: &dyn Fn(&mut Machine)| {
            let mut machine = Machine::load("jeanzay-a100").unwrap();
            change(&mut machine);
            Estimate::new(&machine, &timeline, &flops).step_s
        };
        let base = seconds(&|_| {});
        for factor in [1.5, 4.0, 64.0] {
            assert!(seconds(&|machine| machine.node.nic_bytes_per_s *= factor) <= base);
            assert!(seconds(&|machine| machine.node.link_bytes_per_s *= factor) <= base);
            assert!(seconds(&|machine| machine.gpu.memory_bytes_per_s *= factor) <= base);
            assert!(seconds(&|machine| machine.gpu.bf16_flop_per_s *= factor) <= base);
        }
        // With a network that takes no time nothing is waited for.
        let mut machine = Machine::load("h100-sxm").unwrap();
        (machine.node.nic_bytes_per_s, machine.node.link_bytes_per_s) = (1e30, 1e30);
        let calibration = &mut machine.calibration;
        (calibration.collective_s, calibration.ring_link_s, calibration.ring_nic_s) = (0.0, 0.0, 0.0);
        (calibration.tree_link_s, calibration.tree_nic_s) = (0.0, 0.0);
        let estimate = Estimate::new(&machine, &timeline, &flops);
        assert!(estimate.network_s() < 1e-9, "{estimate:?}");
        let sum = estimate.compute_s + estimate.memory_s + estimate.launch_s;
        assert!((sum / estimate.step_s - 1.0).abs() < 1e-9);
    }
}

#[test]
fn micro_batches_beyond_those_recorded_take_as_long_as_one_of_them() {
    let machine = Machine::load("h100-sxm").unwrap();
    let seconds = |batch: &str| {
        let config = example("llama3-8b.toml", &["model.num_layers=3", "mesh.dp_shard=8", batch], 8);
        predicted(&config, &machine).step_s
    };
    let [three, four, ten] =
        ["training.global_batch=24", "training.global_batch=32", "training.global_batch=80"].map(seconds);
    assert!(((ten - three) / (four - three) - 7.0).abs() < 1e-6, "{three} {four} {ten}");
    assert!(four - three < four / 3.0 && four - three > four / 8.0);
}

fn searched(name: &str, machine: &Machine, ranks: usize) -> Found {
    let configure = |sets: &[String]| {
        let path = root().join("examples").join(name);
        Config::load(&path, sets, Some(ranks), &|_| None)
    };
    search(&configure, ranks, machine, CUDA_CAPS, 10, &|_, _| {}).unwrap()
}

#[test]
fn a_search_finds_only_what_fits_fastest_first() {
    let mut machine = Machine::load("h100-sxm").unwrap();
    let started = Instant::now();
    for (gib, name) in [(80, "llama3-8b.toml"), (40, "llama3-8b.toml"), (80, "llama3-70b.toml")] {
        machine.gpu.memory_bytes = gib << 30;
        let found = searched(name, &machine, 64);
        assert!(!found.best.is_empty() && found.fitting >= found.best.len());
        for candidate in &found.best {
            let sets: Vec<&str> = candidate.sets.iter().map(String::as_str).collect();
            let config = example(name, &sets, 64);
            let arena = planned(&config).1.arena_bytes as u64;
            let needed = arena + machine.outside_bytes(&recorded(&config).mesh);
            assert_eq!(candidate.needed_bytes, needed);
            assert!(needed <= gib << 30);
            assert_eq!(candidate.mesh.dp() * candidate.mesh.tp, 64);
        }
        assert!(found.best.is_sorted_by(|a, b| a.estimate.step_s <= b.estimate.step_s));
    }
    machine.gpu.memory_bytes = 4 << 30;
    let configure =
        |sets: &[String]| Config::load(&root().join("examples/llama3-70b.toml"), sets, Some(8), &|_| None);
    let refusal = search(&configure, 8, &machine, CUDA_CAPS, 10, &|_, _| {}).unwrap_err().to_string();
    assert!(refusal.contains("nothing fits 4.00 GiB of H100"), "{refusal}");
    assert!(started.elapsed() < Duration::from_secs(120), "{:?}", started.elapsed());
}

#[test]
fn every_profile_is_understood_and_mistakes_are_refused() {
    for name in Machine::names() {
        let machine = Machine::load(name).unwrap();
        assert!(machine.gpu.bf16_flop_per_s > 1e14 && machine.node.gpus >= 4, "{name}");
    }
    let refusal = Machine::load("h100").unwrap_err().to_string();
    assert!(refusal.contains("no profile \"h100\"") && refusal.contains("\"h100-sxm\""), "{refusal}");
    let text = "base = \"h200\"\n[node]\ngpus = 4\nlink_bytes_per_s = 4e11\nnic_bytes_per_s = 2e10\n";
    assert_eq!(Machine::parse("own", text).unwrap().gpu, Machine::load("h200").unwrap().gpu);
    for (from, to, fragment) in [
        ("gpus = 4", "gpus = 0", "node.gpus = 0"),
        ("gpus = 4", "gpu = 4", "gpu"),
        ("base = \"h200\"\n", "", "either [gpu] or base"),
    ] {
        let refusal = Machine::parse("own", &text.replace(from, to)).unwrap_err().to_string();
        assert!(refusal.starts_with("profile own: ") && refusal.contains(fragment), "{refusal}");
        assert!(!refusal.contains('\n'), "{refusal}");
    }
}
