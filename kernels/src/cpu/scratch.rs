//! Scratch of one task: zeroed stack memory, cut into pieces.
//!
//! A task's tiles have sizes known at run time only, must not come from the heap, and would multiply the
//! arena by the number of threads. So they lie on the worker's stack, in the smallest of a few frames.

/// Calls `body` with `len` zeroed elements, aligned to a cache line.
///
/// # Panics
/// If no frame is large enough: callers bound their tiles.
pub(super) fn with_scratch(len: usize, body: &mut dyn FnMut(&mut [f32])) {
    const KI: usize = 1024;
    match len {
        _ if len <= 8 * KI => frame::<{ 8 * KI }>(len, body),
        _ if len <= 16 * KI => frame::<{ 16 * KI }>(len, body),
        _ if len <= 32 * KI => frame::<{ 32 * KI }>(len, body),
        _ if len <= 64 * KI => frame::<{ 64 * KI }>(len, body),
        _ if len <= 96 * KI => frame::<{ 96 * KI }>(len, body),
        _ => panic!("{len} elements of scratch exceed the largest stack frame"),
    }
}

#[repr(C, align(64))]
struct Aligned<const N: usize>([f32; N]);

/// Never inlined, so that a caller's stack holds only the frame that it uses.
#[inline(never)]
fn frame<const N: usize>(len: usize, body: &mut dyn FnMut(&mut [f32])) {
    let mut memory = Aligned([0.0; N]);
    body(&mut memory.0[..len]);
}

/// Cuts the first `len` elements off `scratch`.
///
/// # Panics
/// If fewer are left.
#[inline(always)]
pub(super) fn take<'a>(scratch: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (piece, rest) = std::mem::take(scratch).split_at_mut(len);
    *scratch = rest;
    piece
}
