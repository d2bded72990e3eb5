//! The emulator's functions (`kernels/emulator/abi.h`), each wrapped at once in a safe one.

use std::ffi::{CStr, CString, c_char, c_void};
use std::num::NonZeroU32;
use std::ptr::NonNull;

use super::memory::Range;
use super::settings::{Completion, Schedule, Settings};
use crate::cuda::LaunchConfig;
use crate::{KernelError, Result};

#[repr(C)]
#[derive(Clone, Copy)]
struct EmulatorArg {
    kind: u32,
    size: u32,
    value: u64,
    bytes: u64,
}

#[repr(C)]
struct EmulatorSettings {
    schedule: u32,
    late: u32,
    seed: u64,
    live_blocks: u32,
    warp_size: u32,
    count_accesses: u32,
    edge_blocks: u32,
}

/// What the kernels launched so far have done; accesses where [`Settings::count_accesses`] is set.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Warps' instructions that accessed shared memory.
    pub shared_accesses: u64,
    /// Passes over the banks that these took.
    pub shared_wavefronts: u64,
    /// Passes without bank conflicts.
    pub shared_wavefronts_at_best: u64,
    /// Warps' instructions that accessed global memory.
    pub global_accesses: u64,
    /// Sectors of 32 bytes that these touched.
    pub global_sectors: u64,
    /// Sectors that the bytes which they asked for would fill.
    pub global_sectors_at_best: u64,
    /// Barriers that blocks passed.
    pub barriers: u64,
    /// Changes from one thread to another.
    pub switches: u64,
}

impl Counters {
    pub(super) fn add(&mut self, more: &Counters) {
        self.shared_accesses += more.shared_accesses;
        self.shared_wavefronts += more.shared_wavefronts;
        self.shared_wavefronts_at_best += more.shared_wavefronts_at_best;
        self.global_accesses += more.global_accesses;
        self.global_sectors += more.global_sectors;
        self.global_sectors_at_best += more.global_sectors_at_best;
        self.barriers += more.barriers;
        self.switches += more.switches;
    }
}

unsafe extern "C" {
    fn emulator_launch(
        kernel: *const c_char,
        grid: *const u32,
        threads: u32,
        shared_bytes: u32,
        args: *const EmulatorArg,
        num_args: u32,
        settings: *const EmulatorSettings,
        counters: *mut Counters,
        message: *mut c_char,
        message_bytes: u64,
    ) -> i32;
    fn emulator_allocate(bytes: u64, alignment: u64, sparse: u32) -> *mut c_void;
    fn emulator_free(memory: *mut c_void);
    fn emulator_poison(memory: *mut c_void, bytes: u64);
    fn emulator_written(memory: *mut c_void, bytes: u64);
    fn emulator_first_poisoned(memory: *const c_void, bytes: u64) -> i64;
    fn emulator_has_kernel(kernel: *const c_char, warp_size: u32) -> i32;
    fn emulator_copy(dst: *mut c_void, src: *const c_void, bytes: u64);
}

/// Zeroed memory of the emulator, freed when dropped. Its bytes are reached through the functions below only,
/// never as a Rust reference.
pub(super) struct Allocation {
    start: NonNull<c_void>,
    len: usize,
}

// SAFETY: the emulator's memory belongs to no thread, and its functions may be called by several at once. Two
// streams that touch the same bytes with no event between them race, as they do on a GPU; only emulated kernels
// and plain copies do so, never code that holds a reference to these bytes.
unsafe impl Send for Allocation {}
// SAFETY: as above: a shared `Allocation` gives no access but by those functions.
unsafe impl Sync for Allocation {}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: `start` comes from emulator_allocate and is freed once, here; ranges keep the allocation.
        unsafe { emulator_free(self.start.as_ptr()) }
    }
}

impl Allocation {
    /// `len` zeroed bytes, which count as initialised; as [`Settings::edge_blocks`] wants them.
    pub(super) fn new(len: usize, settings: &Settings) -> Option<Self> {
        let sparse = u32::from(settings.edge_blocks.is_some());
        // SAFETY: plain values; the result is checked for null. An address even of no bytes: at least one.
        let start = unsafe { emulator_allocate(len.max(1) as u64, ALIGNMENT_BYTES, sparse) };
        NonNull::new(start).map(|start| Allocation { start, len })
    }

    /// Checks that `len` bytes at `offset` lie inside.
    ///
    /// # Panics
    /// If they do not.
    pub(super) fn check(&self, offset: usize, len: usize) {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        assert!(inside, "bytes {offset}..+{len} leave an allocation of {}", self.len);
    }

    /// Address of `len` bytes at `offset`; panics as [`Allocation::check`] does.
    fn address(&self, offset: usize, len: usize) -> *mut c_void {
        self.check(offset, len);
        // SAFETY: the offset was just checked to lie inside the allocation, or at its end.
        unsafe { self.start.as_ptr().byte_add(offset) }
    }
}

/// At least that of a GPU's allocations.
const ALIGNMENT_BYTES: u64 = 256;

impl Range {
    fn address(&self) -> *mut c_void {
        self.allocation.address(self.offset_bytes, self.size_bytes)
    }

    /// Copies host bytes here.
    ///
    /// # Panics
    /// If the lengths differ.
    pub(super) fn write(&self, src: &[u8]) {
        assert_eq!(src.len(), self.size_bytes, "write of another length");
        // SAFETY: `address` checked that the range lies in its allocation, which `self` keeps; `src` is as long
        // and apart from it, since no reference to emulated memory exists.
        unsafe {
            std::ptr::copy_nonoverlapping(src.as_ptr(), self.address().cast(), src.len());
            emulator_written(self.address(), src.len() as u64);
        }
    }

    /// Copies these bytes to the host.
    ///
    /// # Panics
    /// If the lengths differ.
    pub(super) fn read(&self, dst: &mut [u8]) {
        assert_eq!(dst.len(), self.size_bytes, "read of another length");
        // SAFETY: as in `write`, the other way. Every byte has a value: the memory was zeroed when allocated.
        unsafe { std::ptr::copy_nonoverlapping(self.address().cast(), dst.as_mut_ptr(), dst.len()) }
    }

    /// Sets every byte to zero.
    pub(super) fn zero(&self) {
        // SAFETY: the range lies in its allocation, which `self` keeps.
        unsafe {
            self.address().cast::<u8>().write_bytes(0, self.size_bytes);
            emulator_written(self.address(), self.size_bytes as u64);
        }
    }

    /// Marks every byte as one that nobody has written.
    pub(super) fn poison(&self) {
        // SAFETY: the range lies in its allocation, which `self` keeps.
        unsafe { emulator_poison(self.address(), self.size_bytes as u64) }
    }

    /// Offset in this range of the first byte that nobody has written.
    pub(super) fn first_poisoned(&self) -> Option<usize> {
        // SAFETY: the range lies in its allocation, which `self` keeps.
        let first = unsafe { emulator_first_poisoned(self.address(), self.size_bytes as u64) };
        usize::try_from(first).ok()
    }

    /// Copies bytes, and whether they were ever written, from another range.
    ///
    /// # Panics
    /// If the lengths differ or the ranges overlap.
    pub(super) fn copy_from(&self, src: &Range) {
        assert_eq!(src.size_bytes, self.size_bytes, "copy of another length");
        assert!(!self.overlaps(src), "copy between ranges that overlap");
        // SAFETY: both ranges lie in allocations that they keep, have one length and do not overlap.
        unsafe { emulator_copy(self.address(), src.address(), self.size_bytes as u64) }
    }
}

/// One argument as the queue keeps it.
pub(super) enum OwnedArg {
    /// Memory, and whether the kernel may write to it.
    Buffer(Range, bool),
    /// A null pointer.
    Absent,
    /// An integer: its bits and bytes.
    Integer(u64, u32),
    /// A number.
    Float(f32),
}

impl OwnedArg {
    fn for_emulator(&self) -> EmulatorArg {
        match self {
            OwnedArg::Buffer(range, writable) => EmulatorArg {
                kind: 0,
                size: u32::from(*writable),
                value: range.address().addr() as u64,
                bytes: range.size_bytes as u64,
            },
            OwnedArg::Absent => EmulatorArg { kind: 0, size: 0, value: 0, bytes: 0 },
            OwnedArg::Integer(bits, size) => EmulatorArg { kind: 1, size: *size, value: *bits, bytes: 0 },
            OwnedArg::Float(value) => {
                EmulatorArg { kind: 2, size: 4, value: u64::from(value.to_bits()), bytes: 0 }
            }
        }
    }
}

/// Runs a kernel to its end. The error is the emulator's report, which names kernel, block, thread and line.
pub(super) fn launch(
    kernel: &str,
    config: LaunchConfig,
    args: &[OwnedArg],
    settings: &Settings,
    counters: &mut Counters,
) -> Result<()> {
    let name = c_name(kernel);
    let args: Vec<EmulatorArg> = args.iter().map(OwnedArg::for_emulator).collect();
    let settings = EmulatorSettings::from(settings);
    let mut message = [0_u8; 1024];
    let mut counted = Counters::default();
    // SAFETY: every pointer leads to a live value of the length passed beside it. Buffers of `args` lie in
    // allocations that the caller's `args` keep until the call has returned, when the kernel has ended.
    let code = unsafe {
        emulator_launch(
            name.as_ptr(),
            config.grid.as_ptr(),
            config.threads,
            config.shared_bytes,
            args.as_ptr(),
            args.len() as u32,
            &settings,
            &mut counted,
            message.as_mut_ptr().cast(),
            message.len() as u64,
        )
    };
    counters.add(&counted);
    if code == 0 {
        return Ok(());
    }
    let message = CStr::from_bytes_until_nul(&message).map(CStr::to_string_lossy).unwrap_or_default();
    Err(KernelError::Device(format!("emulated kernel {kernel} failed with code {code}: {message}")))
}

/// Whether the emulator has a kernel of this name.
pub(super) fn has_kernel(kernel: &str, warp_size: u32) -> bool {
    // SAFETY: a string that ends with a zero and lives until the call has returned.
    unsafe { emulator_has_kernel(c_name(kernel).as_ptr(), warp_size) != 0 }
}

fn c_name(kernel: &str) -> CString {
    CString::new(kernel).expect("names of kernels are literals without a zero byte")
}

impl From<&Settings> for EmulatorSettings {
    fn from(settings: &Settings) -> Self {
        let (schedule, seed) = match settings.schedule {
            Schedule::RoundRobin => (0, 0),
            Schedule::Random(seed) => (1, seed),
            Schedule::WarpSkewed(seed) => (2, seed),
        };
        EmulatorSettings {
            schedule,
            late: u32::from(settings.completion != Completion::Early),
            seed,
            live_blocks: settings.live_blocks,
            warp_size: settings.warp_size,
            count_accesses: u32::from(settings.count_accesses),
            edge_blocks: settings.edge_blocks.map_or(0, NonZeroU32::get),
        }
    }
}
