//! What the planner says of a point: the step that its ranks would take on the machine of a profile.

use tisserand_runtime::Result;
use tisserand_runtime::config::Config;
use tisserand_runtime::model::Transformer;
use tisserand_runtime::plan::ModelFlops;
use tisserand_runtime::plan::estimate::Estimate;
use tisserand_runtime::plan::machine::{CUDA_CAPS, Machine};
use tisserand_runtime::plan::timeline::Timeline;
use tisserand_runtime::train::setup::{sharding, step_config};

/// Of one point.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Prediction {
    /// Seconds of a step.
    pub step_s: f64,
    /// Of them: waiting for collectives.
    pub exposed_s: f64,
    /// Peak of one device in the compute type.
    pub peak_flop_per_s: f64,
}

impl Prediction {
    /// Executes the step of rank 0 on a device that only counts.
    ///
    /// # Errors
    /// As a step meets them.
    pub fn new(machine: &Machine, config: &Config) -> Result<Prediction> {
        let model = Transformer::sharded(config.model.clone(), sharding(config, 0).tp());
        let step = step_config(config, &model, 0);
        let timeline = Timeline::record(CUDA_CAPS, &model, &step)?;
        let estimate = Estimate::new(machine, &timeline, &ModelFlops::new(&model, config.training.seq_len));
        Ok(Prediction {
            step_s: estimate.step_s,
            exposed_s: estimate.network_s(),
            peak_flop_per_s: machine.peak_flop_per_s(config.precision.compute),
        })
    }
}
