//! How fast a device multiplies matrices, by our own kernels.

use tisserand_kernels::ops::philox::{self, GlobalIndex, NormalParams};
use tisserand_kernels::ops::{elementwise, gemm};
use tisserand_kernels::{Block, Class, Context, DType, Device, DryRun};
use tisserand_runtime::Result;

use super::measure::{Call, Work};

/// A product of two square matrices.
struct Product<D: Device> {
    ctx: Context<D>,
    n: usize,
    x: Block<D>,
    weight: Block<D>,
    out: Block<D>,
}

impl<D: Device> Product<D> {
    fn new(device: D, dtype: DType, n: usize, arena_bytes: usize) -> Result<Self> {
        let ctx = Context::new(device, arena_bytes)?;
        let block = || ctx.arena.block(Class::Workspace, dtype, n * n);
        let (x, weight, out) = (block()?, block()?, block()?);
        Ok(Product { ctx, n, x, weight, out })
    }

    /// Numbers like any others: a GPU multiplies zeros with less energy, and so faster.
    fn fill(&mut self) -> Result<()> {
        let index = GlobalIndex::contiguous(0);
        let normal = NormalParams { seed: 1, tensor_key: 1, index, std: 0.02, mean: 0.0 };
        let len = self.n * self.n;
        let mut noise = self.ctx.arena.block(Class::Workspace, DType::F32, len)?;
        philox::normal(&self.ctx, &normal, noise.view_mut([len]))?;
        for block in [&mut self.x, &mut self.weight] {
            elementwise::cast(&self.ctx, noise.view([len]), block.view_mut([len]))?;
        }
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        let n = self.n;
        let (x, weight) = (self.x.view([n, n]), self.weight.view([n, n]));
        Ok(gemm::linear_forward(&self.ctx, x, weight, None, self.out.view_mut([n, n]))?)
    }
}

/// Products of `n` × `n` matrices, `batch` of them queued at a time.
fn products<D: Device>(device: &D, dtype: DType, n: usize, batch: usize) -> Result<Call> {
    let mut dry = Product::new(DryRun::new(device.caps()), dtype, n, DryRun::CAPACITY_BYTES)?;
    dry.fill()?;
    dry.run()?;
    let mut product = Product::new(device.clone(), dtype, n, dry.ctx.arena.high_water_bytes())?;
    product.fill()?;
    Ok(Box::new(move || {
        (0..batch).try_for_each(|_| product.run())?;
        Ok(product.ctx.device.synchronize()?)
    }))
}

fn flops(n: usize, batch: usize) -> f64 {
    2.0 * (n as f64).powi(3) * batch as f64
}

/// On a CPU device with so many threads.
pub(super) fn on_cpu<D: Device>(device: &D, threads: usize) -> Work {
    let n = match threads {
        ..=8 => 1024,
        9..=64 => 2048,
        _ => 4096,
    };
    let call = products(device, DType::F32, n, 1);
    Work { check: "gemm", name: "f32", amount: flops(n, 1) / 1e9, unit: "GFLOP/s", call }
}

/// On a GPU.
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "asked for in builds for GPUs"))]
pub(super) fn on_gpu<D: Device>(check: &'static str, device: &D) -> Work {
    let (n, batch) = (8192, 8);
    let call = products(device, DType::Bf16, n, batch);
    Work { check, name: "gemm bf16", amount: flops(n, batch) / 1e12, unit: "TFLOP/s", call }
}

#[cfg(test)]
mod tests {
    use tisserand_kernels::Cpu;

    use super::*;

    #[test]
    fn products_are_made_in_both_types() {
        let device = Cpu::new(1).unwrap();
        for dtype in [DType::F32, DType::Bf16] {
            products(&device, dtype, 64, 2).unwrap()().unwrap();
        }
    }
}
