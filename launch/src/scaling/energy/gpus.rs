//! The energy of GPUs: samples of their power, by `nvidia-smi`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::super::statistics::Summary;
use super::Energy;

/// Fewer samples of power than these say nothing of a mean.
const SAMPLES_MIN: usize = 3;

/// The power of every GPU that nvidia-smi sees, while this is there.
pub struct PowerSamples {
    child: Child,
    kept: Arc<Mutex<Vec<PowerSample>>>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct PowerSample {
    at: Instant,
    gpu: u32,
    watts: f64,
    sm_clock_mhz: Option<f64>,
}

impl PowerSamples {
    const QUERY: &str = "--query-gpu=index,power.draw,clocks.sm";

    pub(super) fn start() -> Result<Self, String> {
        let mut child = Command::new("nvidia-smi")
            .args([Self::QUERY, "--format=csv,noheader,nounits", "--loop-ms=200"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("nvidia-smi does not start: {error}"))?;
        let Some(out) = child.stdout.take() else { return Err("nvidia-smi has no output".to_owned()) };
        let kept: Arc<Mutex<Vec<PowerSample>>> = Arc::default();
        let keep = Arc::clone(&kept);
        let read = move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if let Some(sample) = PowerSample::parse(&line, Instant::now()) {
                    keep.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
                }
            }
        };
        std::thread::Builder::new()
            .name("power".to_owned())
            .spawn(read)
            .map_err(|error| format!("cannot start the thread that reads the power of GPUs: {error}"))?;
        Ok(PowerSamples { child, kept })
    }

    pub(super) fn energy(&self, begin: Instant, end: Instant) -> Result<Energy, String> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let during = kept.iter().filter(|sample| (begin..=end).contains(&sample.at));
        energy_of(&during.copied().collect::<Vec<_>>(), (end - begin).as_secs_f64())
    }
}

impl Drop for PowerSamples {
    fn drop(&mut self) {
        // It has nothing to lose; and if it has ended by itself, that is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl PowerSample {
    /// From a line `0, 312.55, 1980`.
    fn parse(line: &str, at: Instant) -> Option<Self> {
        let mut fields = line.split(',').map(str::trim);
        let (gpu, watts) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(PowerSample { at, gpu, watts, sm_clock_mhz: fields.next().and_then(|mhz| mhz.parse().ok()) })
    }
}

/// Mean power of each GPU, times the time.
fn energy_of(samples: &[PowerSample], seconds: f64) -> Result<Energy, String> {
    let mut gpus: Vec<u32> = samples.iter().map(|sample| sample.gpu).collect();
    gpus.sort_unstable();
    gpus.dedup();
    if samples.len() < SAMPLES_MIN * gpus.len().max(1) {
        return Err(format!("nvidia-smi gave {} samples of power in {seconds:.1} s: too few", samples.len()));
    }
    let watts = |gpu: &u32| {
        let of_gpu = samples.iter().filter(|sample| sample.gpu == *gpu).map(|sample| sample.watts);
        Summary::of(of_gpu).map_or(0.0, |summary| summary.mean)
    };
    let watts: f64 = gpus.iter().map(watts).sum();
    let clocks = Summary::of(samples.iter().filter_map(|sample| sample.sm_clock_mhz));
    Ok(Energy {
        source: "nvidia-smi".to_owned(),
        joules: watts * seconds,
        seconds,
        devices: gpus.len(),
        sm_clock_mhz: clocks.map(|clocks| clocks.median),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_of_several_gpus_is_added_up_and_too_few_samples_say_nothing() {
        let now = Instant::now();
        let lines =
            ["0, 300.5, 1980", "1, 299.5, 1900", "0, 100.5, 1980", "1, 100.5, 1900", "0, 199.0, 1980"];
        let mut samples: Vec<PowerSample> =
            lines.iter().filter_map(|line| PowerSample::parse(line, now)).collect();
        assert!(energy_of(&samples, 2.0).is_err_and(|why| why.contains("5 samples of power in 2.0 s")));
        samples.extend(PowerSample::parse("1, 200.0, 1900", now));
        let energy = energy_of(&samples, 2.0).unwrap();
        assert_eq!((energy.joules, energy.devices, energy.sm_clock_mhz), (800.0, 2, Some(1940.0)));
        assert_eq!(PowerSample::parse("0, [N/A], 1980", now), None);
        let both = energy.clone().and(Energy { seconds: 3.0, ..energy });
        assert_eq!((both.joules, both.seconds, both.devices), (1600.0, 3.0, 4));
    }
}
