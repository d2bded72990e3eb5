//! The one instruction of this device that has no safe name.

/// Asks for the cache line of `x[index]`, in the second-level cache, ahead of its use. Any index will do.
#[inline(always)]
pub(super) fn prefetch(x: &[f32], index: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch is a hint: it neither faults nor reads or writes anything that a program can
        // observe, whatever the address; the address is computed without leaving defined behaviour.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(x.as_ptr().wrapping_add(index).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (x, index);
}
