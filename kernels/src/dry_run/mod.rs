//! The device that only counts: it has no memory and computes nothing, but the arena above it hands out
//! real offsets and every op reports its cost. Running a step on it gives the exact bytes of the arena and
//! the exact FLOPs, on any machine.
//!
//! Invariant: control flow of the code that runs on it never reads device values; downloads give zeros.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::device::Caps;
use crate::ops::*;
use crate::{Cost, Element, Result, Storage, TensorMut, TensorRef};

/// Counts what another device would do. Clones share the counts.
#[derive(Clone)]
pub struct DryRun {
    caps: Caps,
    costs: Arc<Mutex<Vec<OpTotal>>>,
    watch: Option<Watch>,
}

/// Told of every op with its cost, in order.
pub type Watch = Arc<dyn Fn(Cost) + Send + Sync>;

/// Everything one op did so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpTotal {
    /// Sum of FLOPs and bytes; `op` names the op.
    pub cost: Cost,
    /// Number of calls.
    pub calls: u64,
}

impl DryRun {
    /// An arena capacity that no step reaches.
    pub const CAPACITY_BYTES: usize = usize::MAX / 2;

    /// Stands for a device with these caps.
    pub fn new(caps: Caps) -> Self {
        DryRun { caps, costs: Arc::default(), watch: None }
    }

    /// As [`DryRun::new`]; `watch` is told of every op.
    pub fn watched(caps: Caps, watch: Watch) -> Self {
        DryRun { caps, costs: Arc::default(), watch: Some(watch) }
    }

    /// Totals by op since the last call, in the order of first use.
    pub fn take_totals(&self) -> Vec<OpTotal> {
        std::mem::take(&mut *self.costs.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Storage for DryRun {
    type Memory = ();
    type Event = ();
    /// None is ever made.
    type Graph = Infallible;
    /// Nothing takes time.
    type Moment = ();

    fn caps(&self) -> Caps {
        self.caps
    }

    fn allocate(&self, _bytes: usize) -> Result<()> {
        Ok(())
    }

    fn upload<T: Element>(&self, _src: &[T], _dst: TensorMut<'_, Self>) -> Result<()> {
        Ok(())
    }

    fn download<T: Element>(&self, _src: TensorRef<'_, Self>, dst: &mut [T]) -> Result<()> {
        dst.fill(T::zeroed());
        Ok(())
    }

    /// Not an op, but bytes that move: counted under its own name.
    fn copy(&self, src: TensorRef<'_, Self>, _dst: TensorMut<'_, Self>) -> Result<()> {
        self.record(Cost { op: "copy", flops: 0, bytes: 2 * src.size_bytes() as u64 });
        Ok(())
    }

    /// As [`Storage::copy`] here.
    fn zero(&self, dst: TensorMut<'_, Self>) -> Result<()> {
        self.record(Cost { op: "zero", flops: 0, bytes: dst.as_ref().size_bytes() as u64 });
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn event(&self) -> Result<()> {
        Ok(())
    }

    fn wait(&self, _event: &()) -> Result<()> {
        Ok(())
    }

    fn moment(&self) -> Result<()> {
        Ok(())
    }

    fn elapsed(&self, _from: &(), _to: &()) -> Result<Option<Duration>> {
        Ok(Some(Duration::ZERO))
    }

    fn reached_at(&self, _moment: &()) -> Result<Option<Instant>> {
        Ok(Some(Instant::now()))
    }

    fn fork(&self) -> Result<Self> {
        Ok(self.clone())
    }

    fn replay(&self, graph: &Infallible) -> Result<()> {
        match *graph {}
    }

    fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        work()
    }

    fn record(&self, cost: Cost) {
        if let Some(watch) = &self.watch {
            watch(cost);
        }
        let mut totals = self.costs.lock().unwrap_or_else(PoisonError::into_inner);
        let index = totals.iter().position(|total| total.cost.op == cost.op).unwrap_or_else(|| {
            totals.push(OpTotal { cost: Cost { op: cost.op, ..Cost::default() }, calls: 0 });
            totals.len() - 1
        });
        let total = &mut totals[index];
        total.calls += 1;
        total.cost.flops += cost.flops;
        total.cost.bytes += cost.bytes;
    }
}

/// Implements a kernel trait for `DryRun` with functions that do nothing: their names and argument types.
macro_rules! nothing {
    ($family:ident { $($kernel:ident($($argument:ty),* $(,)?);)* }) => {
        impl $family for DryRun {
            $(fn $kernel(&self, $(_: $argument),*) -> Result<()> {
                Ok(())
            })*
        }
    };
}

type In<'a> = TensorRef<'a, DryRun>;
type Out<'a> = TensorMut<'a, DryRun>;

nothing!(CrossEntropyKernels {
    softmax_cross_entropy_rows(
        cross_entropy::CrossEntropyShape,
        &cross_entropy::CrossEntropyParams,
        Option<In<'_>>,
        Out<'_>,
        Option<Out<'_>>,
        In<'_>,
        Out<'_>,
        Out<'_>,
    );
    shard_maxima(cross_entropy::ShardShape, In<'_>, Out<'_>);
    shard_terms(cross_entropy::ShardShape, In<'_>, In<'_>, Out<'_>, Out<'_>);
    shard_losses(
        cross_entropy::ShardShape,
        &cross_entropy::CrossEntropyParams,
        Option<In<'_>>,
        In<'_>,
        In<'_>,
        In<'_>,
        Out<'_>,
        Option<Out<'_>>,
        Out<'_>,
        Out<'_>,
    );
});

nothing!(EmbeddingKernels {
    embedding_forward(embedding::EmbeddingShape, In<'_>, In<'_>, Out<'_>);
    embedding_backward(embedding::EmbeddingShape, In<'_>, In<'_>, Out<'_>, Out<'_>);
});

nothing!(GemmKernels {
    gemm(
        gemm::Layout,
        gemm::GemmShape,
        In<'_>,
        In<'_>,
        Option<In<'_>>,
        Write,
        Out<'_>,
        Out<'_>,
    );
    gemm_add(gemm::GemmShape, In<'_>, In<'_>, In<'_>, Out<'_>, Out<'_>);
    gemm_swiglu(gemm::GemmShape, In<'_>, In<'_>, Out<'_>, Out<'_>, Out<'_>);
});

nothing!(RmsNormKernels {
    rms_norm_forward(rms_norm::RmsNormShape, f32, In<'_>, In<'_>, Out<'_>, Out<'_>);
    add_rms_norm_forward(rms_norm::RmsNormShape, f32, In<'_>, In<'_>, In<'_>, Out<'_>, Out<'_>, Out<'_>);
    rms_norm_backward(rms_norm::RmsNormShape, In<'_>, In<'_>, In<'_>, In<'_>, Write, Out<'_>, Out<'_>, Out<'_>);
});

nothing!(ElementwiseKernels {
    add_assign(In<'_>, Out<'_>);
    combine(elementwise::Combine, &[In<'_>], Out<'_>, &[In<'_>]);
    cast(In<'_>, Out<'_>);
    fill(f32, Out<'_>);
    column_sum(In<'_>, Out<'_>, Out<'_>);
    chunk_sums(In<'_>, Out<'_>);
});

nothing!(GradNormKernels {
    sum_of_squares(In<'_>, Out<'_>);
    tree_sum(Write, Out<'_>, Out<'_>);
});

nothing!(PhiloxKernels {
    philox_normal(&philox::NormalParams, Out<'_>);
});

nothing!(StepScalarsKernels {
    finish_step_scalars(In<'_>, In<'_>, Out<'_>);
});

nothing!(AdamwKernels {
    adamw_update(&adamw::AdamwParams, In<'_>, In<'_>, Out<'_>, Out<'_>, Out<'_>, Out<'_>);
});

nothing!(AttentionKernels {
    attention_forward(
        attention::AttentionShape, In<'_>, In<'_>, In<'_>, In<'_>, In<'_>, Out<'_>, Out<'_>, Out<'_>,
    );
    attention_backward(
        attention::AttentionShape, In<'_>, In<'_>, In<'_>, In<'_>, In<'_>, In<'_>, In<'_>,
        Out<'_>, Out<'_>, Out<'_>, Out<'_>,
    );
});

nothing!(RopeKernels {
    rope(rope::RopeShape, rope::Turn, In<'_>, In<'_>, Out<'_>);
});

nothing!(SwigluKernels {
    swiglu_forward(swiglu::SwigluShape, In<'_>, Out<'_>);
    swiglu_backward(swiglu::SwigluShape, In<'_>, In<'_>, Out<'_>);
});
