//! The machine code of every kernel, embedded by `build/nvrtc/`, and what each kernel costs.

/// The compiled form of one `kernels/cuda/<family>.cu`.
#[derive(Debug)]
pub struct Module {
    /// Name of the source.
    pub family: &'static str,
    /// ELF image for GPUs of compute capability 8.x.
    pub sm_80: &'static [u8],
    /// ELF image for GPUs of compute capability 9.0, with its own instructions.
    pub sm_90a: &'static [u8],
    /// PTX that the driver compiles for any GPU from 8.0 on. Ends in a zero byte, as the driver wants it.
    pub ptx: &'static [u8],
    /// Every kernel of the module, by name. A name occurs in one module only.
    pub kernels: &'static [KernelResources],
}

/// A kernel and what it takes of a GPU.
#[derive(Debug)]
pub struct KernelResources {
    /// The name by which it is launched.
    pub name: &'static str,
    /// The most threads of a block; a launch with more fails.
    pub max_threads: u32,
    /// Cost of the machine code for compute capability 8.0.
    pub sm_80: Resources,
    /// Cost of the machine code for compute capability 9.0.
    pub sm_90a: Resources,
}

/// What a kernel's machine code takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Registers of a thread.
    pub registers: u32,
    /// Static shared memory of a block; what a launch asks for comes on top.
    pub shared_bytes: u32,
    /// Size of the machine code.
    pub code_bytes: u64,
    /// Local memory of a thread for arrays that are indexed by what is not constant.
    pub stack_bytes: u32,
    /// Bytes of the instructions that store and load registers for which there was no room.
    pub spill_bytes: u32,
}

/// Every module, by family.
pub static MODULES: &[Module] = include!(concat!(env!("OUT_DIR"), "/cubins.rs"));

/// The kernels of `tests/cuda/instructions`: each instruction of the instruction layer by itself. A program that does not
/// name them does not contain them.
pub static INSTRUCTIONS: &[Module] = include!(concat!(env!("OUT_DIR"), "/instructions.rs"));

/// Version of the NVRTC that compiled them, such as `12.4`. Machine code runs with every driver of the same major
/// version or a later one; PTX needs a driver of this version or a later one.
pub const NVRTC_VERSION: &str = env!("TISSERAND_NVRTC_VERSION");

/// An image that begins where the driver can read its headers in place.
#[repr(C, align(64))]
struct Aligned<const LEN: usize>([u8; LEN]);
