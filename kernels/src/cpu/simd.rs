//! The one instruction of this device that has no safe name: asking for a cache line ahead of its use.
//! Any index will do, inside of the slice or not.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};

/// The line of `x[index]` into the first-level cache.
#[inline(always)]
pub(super) fn prefetch_near<T>(x: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    hint::<_MM_HINT_T0, T>(x, index);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (x, index);
}

/// The line of `x[index]` into the second-level cache.
#[inline(always)]
pub(super) fn prefetch<T>(x: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    hint::<_MM_HINT_T1, T>(x, index);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (x, index);
}

/// The line of `x[index]` into the first-level cache, to be written.
#[inline(always)]
pub(super) fn prefetch_to_write<T>(x: &mut [T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    hint::<_MM_HINT_ET0, T>(x, index);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (x, index);
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn hint<const HINT: i32, T>(x: &[T], index: usize) {
    // SAFETY: a prefetch is a hint: it neither faults nor reads or writes anything that a program can
    // observe, whatever the address; the address is computed without leaving defined behaviour.
    unsafe { _mm_prefetch::<HINT>(x.as_ptr().wrapping_add(index).cast()) };
}
