//! The instructions of this device that have no safe name: asking for a cache line ahead of its use (any index will
//! do, inside of the slice or not), and writing past the caches.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m128i, _MM_HINT_ET0, _MM_HINT_T0, _MM_HINT_T1, _mm_loadu_si128, _mm_prefetch, _mm_sfence,
    _mm_stream_si128,
};

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

/// `dst = src`, written past the caches: a line that is written whole need not be read first, which is a third of
/// the traffic of a copy.
///
/// # Panics
/// If the lengths differ.
pub(super) fn copy_past_caches(src: &[u8], dst: &mut [u8]) {
    assert_eq!(src.len(), dst.len(), "a copy has the length of its source");
    #[cfg(target_arch = "x86_64")]
    {
        const LANES: usize = 4;
        let head = dst.as_ptr().align_offset(LINE).min(dst.len());
        let (first, dst) = dst.split_at_mut(head);
        first.copy_from_slice(&src[..head]);
        let (dst, last) = dst.as_chunks_mut::<LINE>();
        let (lines, rest) = src[head..].as_chunks::<LINE>();
        for (src, dst) in lines.iter().zip(dst) {
            let (src, dst) = (src.as_ptr().cast::<__m128i>(), dst.as_mut_ptr().cast::<__m128i>());
            for lane in 0..LANES {
                // SAFETY: both arrays have 64 bytes, four of these vectors; `dst` begins at a multiple of 64, since
                // `head` bytes were cut off for that, and loads need no alignment. The instructions belong to
                // SSE2, which every x86-64 processor has.
                unsafe { _mm_stream_si128(dst.add(lane), _mm_loadu_si128(src.add(lane))) };
            }
        }
        // SAFETY: a fence touches no memory. It orders what was written before it ahead of any later write, as
        // other threads expect of the lock that they then take.
        unsafe { _mm_sfence() };
        last.copy_from_slice(rest);
    }
    #[cfg(not(target_arch = "x86_64"))]
    dst.copy_from_slice(src);
}

/// Bytes of a cache line.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

#[cfg(test)]
mod tests {
    use super::copy_past_caches;

    #[test]
    fn copies_of_any_length_and_alignment_are_whole_and_no_more() {
        let src: Vec<u8> = (0..1000_u32).map(|i| (i * 7 + 1) as u8).collect();
        for from in 0..3 {
            for to in [0, 1, 13, 63, 64] {
                for len in [0, 1, 63, 64, 65, 128, 500] {
                    let mut dst = vec![0_u8; 800];
                    copy_past_caches(&src[from..from + len], &mut dst[to..to + len]);
                    assert_eq!(dst[to..to + len], src[from..from + len], "{from} {to} {len}");
                    assert!(dst[..to].iter().chain(&dst[to + len..]).all(|byte| *byte == 0));
                }
            }
        }
    }
}
