//! Steps of ranks with emulated GPUs, whatever the mesh: the host waits for the device where it asks for a result, and
//! nowhere else; then it knows how long the streams have waited for each other.

mod support {
    pub(crate) mod mesh;
}

use std::time::Duration;

use support::mesh::{self, Spread, fixture};
use tisserand_collectives::Progress;
use tisserand_kernels::cuda::driver::emulated::{Completion, Emulated, Settings};
use tisserand_kernels::{Cuda, DType};
use tisserand_runtime::checkpoint::HfFolder;
use tisserand_runtime::engine::Engine;
use tisserand_runtime::hf_config;

/// Trains a few steps; returns for how long each rank's stream has waited in them.
fn train(spread: Spread) -> Vec<Duration> {
    let folder = fixture("llama-tiny");
    let config = hf_config::read(&folder.join("config.json")).unwrap();
    let weights = HfFolder::open(&folder).unwrap();
    let rank = |rank, seats| {
        let settings = Settings { completion: Completion::Late, ..Settings::default() };
        let (driver, progress) = (Emulated::new(settings), Progress::default());
        let device = Cuda::new(driver.clone());
        let (mut engine, _) = mesh::engine(&config, &weights, spread, rank, device, progress.clone(), seats);
        engine.scalars().unwrap();
        progress.trace().take_waited();
        let before = driver.host_waits();
        for step in 0..2 {
            let (inputs, batches) = mesh::given(&config, spread, rank, step);
            Engine::train(&mut engine, &inputs, &batches).unwrap();
            engine.settle().unwrap();
        }
        assert_eq!(driver.host_waits(), before, "{spread:?}: the host of rank {rank} waited in a step");
        assert!(engine.scalars().unwrap().loss.is_finite());
        assert_eq!(driver.host_waits().downloads, before.downloads + 1);
        progress.trace().take_waited()
    };
    std::thread::scope(|scope| {
        let ranks = mesh::seats(spread).enumerate().map(|(number, seats)| {
            let rank = &rank;
            scope.spawn(move || rank(number, seats))
        });
        let ranks: Vec<_> = ranks.collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn the_host_waits_for_no_device_in_a_step() {
    let one = Spread { global_batch: 2, ..Spread::one() };
    for (dp_replicate, dp_shard, tp, zero) in
        [(1, 1, 1, 0), (1, 2, 1, 3), (1, 2, 1, 1), (2, 1, 1, 0), (1, 1, 2, 0)]
    {
        for compute in [DType::F32, DType::Bf16] {
            let spread = Spread { compute, ..one.mesh(dp_replicate, dp_shard, tp, zero) };
            let waited = train(spread);
            println!("{dp_replicate} x {dp_shard} x {tp}, ZeRO {zero}, {compute}: {waited:?}");
            assert!(spread.ranks() == 1 || waited.iter().all(|waited| *waited > Duration::ZERO));
        }
    }
}
