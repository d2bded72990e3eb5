//! AdamW on the host: bound by memory, so one pass over all tensors of an element.

use half::bf16;
use rayon::prelude::*;

use super::philox::RoundingNoise;
use super::{Cpu, ELEMENTS_PER_TASK, vectorize};
use crate::ops::CHUNK;
use crate::ops::adamw::{AdamwKernels, AdamwParams, Coefficients, rounding_keys};
use crate::ops::philox::{GlobalIndex, round_stochastic};
use crate::ops::step_scalars::StepScalars;
use crate::{Float, Result, TensorMut, TensorRef, match_float};

impl AdamwKernels for Cpu {
    fn adamw_update(
        &self,
        params: &AdamwParams,
        scalars: TensorRef<'_, Self>,
        grad: TensorRef<'_, Self>,
        master: TensorMut<'_, Self>,
        m: TensorMut<'_, Self>,
        v: TensorMut<'_, Self>,
        weights: TensorMut<'_, Self>,
    ) -> Result<()> {
        let scalars: &StepScalars = bytemuck::from_bytes(bytemuck::cast_slice(scalars.as_slice::<u32>()));
        if scalars.update == 0 {
            return Ok(());
        }
        let update = Update {
            coefficients: Coefficients::new(params, scalars),
            keys: rounding_keys(scalars),
            tensor_key: params.tensor_key,
        };
        let (index, grad) = (params.index, grad.as_slice::<f32>());
        match_float!(master.dtype(), P => match_float!(m.dtype(), S => match_float!(weights.dtype(), W => {
            let (master, weights) = (master.into_slice::<P>(), weights.into_slice::<W>());
            let elements = Elements { grad, master, m: m.into_slice::<S>(), v: v.into_slice::<S>(), weights };
            self.run(|| update.run(index, elements));
        })));
        Ok(())
    }
}

/// How a type keeps an f32 result of the update.
trait Stored: Float {
    /// Whether `store` uses the noise.
    const ROUNDS: bool;
    /// Exact, or rounded by the noise.
    fn store(value: f32, noise: u16) -> Self;
}

impl Stored for f32 {
    const ROUNDS: bool = false;
    #[inline(always)]
    fn store(value: f32, _noise: u16) -> Self {
        value
    }
}

impl Stored for bf16 {
    const ROUNDS: bool = true;
    #[inline(always)]
    fn store(value: f32, noise: u16) -> Self {
        round_stochastic(value, noise)
    }
}

/// The tensors of a range of elements.
struct Elements<'a, P, S, W> {
    grad: &'a [f32],
    master: &'a mut [P],
    m: &'a mut [S],
    v: &'a mut [S],
    weights: &'a mut [W],
}

/// What is the same for all elements.
struct Update {
    coefficients: Coefficients,
    keys: [[u32; 2]; 3],
    tensor_key: u64,
}

impl Update {
    fn run<P: Stored, S: Stored, W: Float>(&self, index: GlobalIndex, elements: Elements<'_, P, S, W>) {
        const LEN: usize = ELEMENTS_PER_TASK;
        let Elements { grad, master, m, v, weights } = elements;
        let moments = m.par_chunks_mut(LEN).zip(v.par_chunks_mut(LEN));
        let copies = master.par_chunks_mut(LEN).zip(weights.par_chunks_mut(LEN));
        grad.par_chunks(LEN).zip(moments).zip(copies).enumerate().for_each(
            |(task, ((grad, (m, v)), (master, weights)))| {
                let index = index.advance(task * LEN);
                vectorize!(update_task(self, index, grad, master, m, v, weights));
            },
        );
    }
}

#[inline(always)]
fn update_task<P: Stored, S: Stored, W: Float>(
    update: &Update,
    index: GlobalIndex,
    grad: &[f32],
    master: &mut [P],
    m: &mut [S],
    v: &mut [S],
    weights: &mut [W],
) {
    let mut noise = [(); 3].map(|()| RoundingNoise::new());
    let rounds = [P::ROUNDS, S::ROUNDS, S::ROUNDS];
    // Where nothing is rounded, no element's place matters, and rows need not be done one by one.
    let mut index = if rounds.contains(&true) { index } else { GlobalIndex::contiguous(0) };
    let mut start = 0;
    while start < grad.len() {
        let (first_index, len) = index.next_run(CHUNK.min(grad.len() - start));
        for ((noise, key), rounds) in noise.iter_mut().zip(update.keys).zip(rounds) {
            if rounds {
                noise.refill(key, update.tensor_key, first_index, len);
            }
        }
        let [master_noise, m_noise, v_noise] = &noise;
        let noise = [master_noise.elements(len), m_noise.elements(len), v_noise.elements(len)];
        let run = start..start + len;
        let (master, m, v) = (&mut master[run.clone()], &mut m[run.clone()], &mut v[run.clone()]);
        let (grad, weights) = (&grad[run.clone()], &mut weights[run]);
        update_chunk(&update.coefficients, grad, master, m, v, weights, noise);
        start += len;
    }
}

#[inline(always)]
fn update_chunk<P: Stored, S: Stored, W: Float>(
    coefficients: &Coefficients,
    grad: &[f32],
    master: &mut [P],
    m: &mut [S],
    v: &mut [S],
    weights: &mut [W],
    [master_noise, m_noise, v_noise]: [&[u16]; 3],
) {
    let len = grad.len();
    let (master, m, v, weights) = (&mut master[..len], &mut m[..len], &mut v[..len], &mut weights[..len]);
    let (master_noise, m_noise, v_noise) = (&master_noise[..len], &m_noise[..len], &v_noise[..len]);
    for i in 0..len {
        let old = (master[i].to_f32(), m[i].to_f32(), v[i].to_f32());
        let (new_p, new_m, new_v) = coefficients.apply(grad[i], old.0, old.1, old.2);
        master[i] = P::store(new_p, master_noise[i]);
        m[i] = S::store(new_m, m_noise[i]);
        v[i] = S::store(new_v, v_noise[i]);
        weights[i] = W::from_f32(master[i].to_f32());
    }
}
