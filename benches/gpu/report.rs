//! What is printed: a table as it goes, and one JSON object per line into a file.

use std::error::Error;
use std::fs::File;
use std::io::Write;

use serde_json::{Value, json};
use tisserand_kernels::cuda::driver::cudarc::Gpu;

use super::Measured;

/// What the GPU can do at most.
pub(crate) struct Machine {
    name: String,
    /// Dense bf16 products, by the vendor's data sheet.
    flop_per_s: f64,
    /// Bytes read and written by a large copy, measured.
    byte_per_s: f64,
}

impl Machine {
    /// The numbers of this GPU.
    pub(crate) fn new(gpu: &Gpu, byte_per_s: f64) -> Self {
        // A100: 312 TFLOP/s; H100 and H200: 989.4. Others are measured by the latter, and only their ratios mean anything.
        let flop_per_s = if gpu.compute_capability.0 == 8 { 312e12 } else { 989.4e12 };
        Machine { name: gpu.name.clone(), flop_per_s, byte_per_s }
    }
}

/// Where results go.
pub(crate) struct Report {
    machine: Machine,
    file: Option<File>,
    failures: usize,
}

impl Report {
    /// Begins with a line about the machine.
    pub(crate) fn new(machine: Machine, file: Option<&str>) -> Result<Self, Box<dyn Error>> {
        let file = file.map(File::create).transpose()?;
        let mut report = Report { machine, file, failures: 0 };
        let Machine { name, flop_per_s, byte_per_s } = &report.machine;
        println!("{name}: copies {:.0} GB/s, peak {:.0} TFLOP/s", byte_per_s / 1e9, flop_per_s / 1e12);
        println!("{:<48} {:>10} {:>9} {:>9} {:>8} {:>9}", "op", "ms", "GB/s", "TFLOP/s", "x floor", "spread");
        let line = json!({ "gpu": name, "copy_byte_per_s": byte_per_s, "peak_flop_per_s": flop_per_s });
        report.line(&line)?;
        Ok(report)
    }

    /// A case that was measured.
    pub(crate) fn case(&mut self, name: &str, measured: &Measured) -> Result<(), Box<dyn Error>> {
        let Measured { cost, timing, sets } = measured;
        let (flops, bytes) = (cost.flops as f64, cost.bytes as f64);
        // Products are limited by the tensor cores; other ops have FLOPs too, but bytes limit them.
        let is_product =
            ["gemm", "attention", "cross_entropy::linear"].iter().any(|op| cost.op.starts_with(op));
        let by_flops_s = if is_product { flops / self.machine.flop_per_s } else { 0.0 };
        let floor_s = by_flops_s.max(bytes / self.machine.byte_per_s);
        let (seconds, spread) = (timing.median_s, (timing.slowest_s - timing.fastest_s) / timing.median_s);
        println!(
            "{name:<48} {:>10.4} {:>9.0} {:>9.1} {:>8.2} {:>8.1}%",
            1e3 * seconds,
            bytes / seconds / 1e9,
            flops / seconds / 1e12,
            seconds / floor_s,
            1e2 * spread
        );
        self.line(&json!({
            "op": name,
            "ms": 1e3 * seconds,
            "fastest_ms": 1e3 * timing.fastest_s,
            "slowest_ms": 1e3 * timing.slowest_s,
            "floor_ms": 1e3 * floor_s,
            "over_floor": seconds / floor_s,
            "flops": cost.flops,
            "bytes": cost.bytes,
            "calls_per_row": timing.calls,
            "sets": sets,
        }))
    }

    /// A case that could not be measured; the others go on.
    pub(crate) fn failure(&mut self, name: &str, error: &str) -> Result<(), Box<dyn Error>> {
        self.failures += 1;
        println!("{name:<48} FAILED: {error}");
        self.line(&json!({ "op": name, "error": error }))
    }

    /// Fails if a case has.
    pub(crate) fn end(self) -> Result<(), Box<dyn Error>> {
        if self.failures == 0 { Ok(()) } else { Err(format!("{} cases failed", self.failures).into()) }
    }

    fn line(&mut self, value: &Value) -> Result<(), Box<dyn Error>> {
        if let Some(file) = &mut self.file {
            // In one write: whoever ends this program leaves whole lines.
            file.write_all(format!("{value}\n").as_bytes())?;
        }
        Ok(())
    }
}
