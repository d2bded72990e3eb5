//! What GPUs this process sees, and whether it can use them. Never panics: a machine without a driver is
//! ordinary, and the answer is one line that says what is missing.

use std::ffi::{CStr, c_int};

use ::cudarc::driver::sys::{self, CUdevice, CUdevice_attribute};

use super::call::check;
use crate::cuda::launch::MAX_SHARED_BYTES;
use crate::cuda::modules::NVRTC_VERSION;
use crate::{KernelError, Result};

/// The first CUDA version whose driver has every function that is called here.
const OLDEST_DRIVER: Version = Version(12, 4);

/// A version of CUDA.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Version(u32, u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// A GPU as its driver describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gpu {
    /// Its number in this process, counted from 0.
    pub ordinal: usize,
    /// The vendor's name.
    pub name: String,
    /// Major and minor number of the compute capability.
    pub compute_capability: (u32, u32),
    /// Where it sits in the machine, the same for every process: "0000:1B:00.0".
    pub bus_id: String,
    /// All of its memory.
    pub memory_bytes: usize,
    pub(super) max_shared_bytes: u32,
    pub(super) raw: CUdevice,
}

/// Which compiled form of the kernels a GPU runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Code {
    /// Machine code for compute capability 8.x.
    Sm80,
    /// Machine code for compute capability 9.0.
    Sm90a,
    /// PTX, which the driver compiles.
    Ptx,
}

impl Code {
    /// None for a GPU that is too old. Machine code runs on its own major version; that of `sm_90a` on 9.0 alone.
    fn of(compute_capability: (u32, u32)) -> Option<Self> {
        match compute_capability {
            (..8, _) => None,
            (8, _) => Some(Code::Sm80),
            (9, 0) => Some(Code::Sm90a),
            (9.., _) => Some(Code::Ptx),
        }
    }

    /// The oldest driver that takes it. Machine code needs one of its compiler's major version, PTX one that is no
    /// older than its compiler.
    fn oldest_driver(self, nvrtc: Version) -> Version {
        let needed = if self == Code::Ptx { nvrtc } else { Version(nvrtc.0, 0) };
        needed.max(OLDEST_DRIVER)
    }
}

/// Every GPU that this process sees, at least one. The numbers are those after `CUDA_VISIBLE_DEVICES`.
///
/// # Errors
/// One line: no driver, a driver that is too old or does not start, no GPU.
pub fn probe() -> Result<Vec<Gpu>> {
    // SAFETY: loads libcuda as every call below would, whose loading has no effect but to define functions.
    if !unsafe { sys::is_culib_present() } {
        return Err(KernelError::Device(
            "no NVIDIA driver here: libcuda.so.1 was not found; hint: run on a node with a GPU, or choose the CPU \
             device"
                .into(),
        ));
    }
    // SAFETY: takes no pointer and may be called any number of times.
    check("cuInit", unsafe { sys::cuInit(0) })?;
    let version = driver_version()?;
    if version < OLDEST_DRIVER {
        return Err(too_old(version, OLDEST_DRIVER, "this program"));
    }
    let mut count = 0;
    // SAFETY: the driver writes one integer.
    check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&mut count) })?;
    if count == 0 {
        return Err(KernelError::Device(
            "the NVIDIA driver shows no GPU; hint: ask the scheduler for one; if there is one, look at \
             CUDA_VISIBLE_DEVICES"
                .into(),
        ));
    }
    (0..count).map(describe).collect()
}

/// The GPU of this number and the form of the kernels that it runs.
///
/// # Errors
/// As [`probe`]; no GPU of this number, one that is too old, a driver that is too old for it.
pub(super) fn choose(ordinal: usize) -> Result<(Gpu, Code)> {
    let mut gpus = probe()?;
    if ordinal >= gpus.len() {
        return Err(KernelError::Device(format!(
            "there is no GPU {ordinal}: this process sees {}; hint: start no more ranks on a node than it has GPUs, \
             and look at CUDA_VISIBLE_DEVICES",
            gpus.len()
        )));
    }
    let gpu = gpus.swap_remove(ordinal);
    let code = code_for(&gpu, driver_version()?, parse(NVRTC_VERSION))?;
    Ok((gpu, code))
}

fn code_for(gpu: &Gpu, driver: Version, nvrtc: Version) -> Result<Code> {
    let (name, (major, minor)) = (&gpu.name, gpu.compute_capability);
    let Some(code) = Code::of(gpu.compute_capability) else {
        return Err(KernelError::Device(format!(
            "GPU {} is a {name} of compute capability {major}.{minor}; the kernels need 8.0 or newer (A100 and later)",
            gpu.ordinal
        )));
    };
    if gpu.max_shared_bytes < MAX_SHARED_BYTES {
        return Err(KernelError::Device(format!(
            "GPU {} is a {name} with {} KiB of shared memory for a block; the kernels need {} KiB, as A100, H100 and \
             B200 have",
            gpu.ordinal,
            gpu.max_shared_bytes >> 10,
            MAX_SHARED_BYTES >> 10
        )));
    }
    let needed = code.oldest_driver(nvrtc);
    if driver < needed {
        let whom = format!("{name} with kernels compiled by CUDA {nvrtc}");
        return Err(too_old(driver, needed, &whom));
    }
    Ok(code)
}

fn too_old(found: Version, needed: Version, whom: &str) -> KernelError {
    KernelError::Device(format!(
        "the NVIDIA driver is too old: it is for CUDA {found}, and {whom} needs {needed} or newer; hint: load a newer \
         CUDA module if its `compat` folder has a libcuda, or ask for a newer driver"
    ))
}

/// `"12.4"` as a version; our build wrote it.
fn parse(version: &str) -> Version {
    let number = |text: Option<&str>| text.and_then(|text| text.parse().ok()).unwrap_or_default();
    let mut parts = version.split('.');
    Version(number(parts.next()), number(parts.next()))
}

/// The newest CUDA that the driver supports, as "12.4".
///
/// # Errors
/// The driver's.
pub fn driver_cuda_version() -> Result<String> {
    driver_version().map(|version| version.to_string())
}

/// The newest CUDA that the driver supports.
fn driver_version() -> Result<Version> {
    let mut version: c_int = 0;
    // SAFETY: the driver writes one integer.
    check("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&mut version) })?;
    let version = version.unsigned_abs();
    Ok(Version(version / 1000, version % 1000 / 10))
}

fn describe(ordinal: c_int) -> Result<Gpu> {
    let mut raw: CUdevice = 0;
    // SAFETY: the driver writes one handle, an integer.
    check("cuDeviceGet", unsafe { sys::cuDeviceGet(&mut raw, ordinal) })?;
    let mut name = [0_u8; 128];
    // SAFETY: the driver writes at most as many bytes as it is told, a string that ends with a zero.
    let answer = unsafe { sys::cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as c_int, raw) };
    check("cuDeviceGetName", answer)?;
    let mut bus_id = [0_u8; 32];
    // SAFETY: as above.
    let answer = unsafe { sys::cuDeviceGetPCIBusId(bus_id.as_mut_ptr().cast(), bus_id.len() as c_int, raw) };
    check("cuDeviceGetPCIBusId", answer)?;
    let mut memory_bytes = 0;
    // SAFETY: the driver writes one length.
    check("cuDeviceTotalMem", unsafe { sys::cuDeviceTotalMem_v2(&mut memory_bytes, raw) })?;
    use CUdevice_attribute as Attribute;
    Ok(Gpu {
        ordinal: ordinal.unsigned_abs() as usize,
        name: text(&name),
        bus_id: text(&bus_id),
        compute_capability: (
            attribute(raw, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(raw, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        memory_bytes,
        max_shared_bytes: attribute(raw, Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        raw,
    })
}

/// Up to the zero that ends it.
fn text(bytes: &[u8]) -> String {
    CStr::from_bytes_until_nul(bytes).unwrap_or_default().to_string_lossy().into_owned()
}

fn attribute(device: CUdevice, attribute: CUdevice_attribute) -> Result<u32> {
    let mut value: c_int = 0;
    // SAFETY: the driver writes one integer.
    check("cuDeviceGetAttribute", unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, device) })?;
    Ok(value.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(name: &str, compute_capability: (u32, u32)) -> Gpu {
        let (name, bus_id) = (name.into(), String::new());
        let max_shared_bytes = MAX_SHARED_BYTES;
        Gpu { ordinal: 3, name, compute_capability, bus_id, memory_bytes: 0, max_shared_bytes, raw: 3 }
    }

    #[test]
    fn a_machine_without_a_driver_gets_one_line_and_no_panic() {
        // SAFETY: as in `probe`.
        if !unsafe { sys::is_culib_present() } {
            let message = probe().unwrap_err().to_string();
            assert!(message.starts_with("no NVIDIA driver here: libcuda.so.1 was not found"), "{message}");
        }
    }

    #[test]
    fn every_gpu_since_a100_has_its_code() {
        let code =
            |major, minor| code_for(&gpu("GPU", (major, minor)), Version(13, 0), Version(12, 4)).unwrap();
        assert_eq!([code(8, 0), code(8, 7)], [Code::Sm80; 2]);
        assert_eq!(code(9, 0), Code::Sm90a);
        assert_eq!([code(10, 0), code(11, 0)], [Code::Ptx; 2]);
    }

    #[test]
    fn an_older_gpu_is_refused_by_name() {
        let error = code_for(&gpu("Tesla V100", (7, 0)), Version(13, 0), Version(12, 4)).unwrap_err();
        let expected =
            "GPU 3 is a Tesla V100 of compute capability 7.0; the kernels need 8.0 or newer (A100 and later)";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_gpu_with_little_shared_memory_is_refused_before_its_first_step() {
        let gpu = Gpu { max_shared_bytes: 99 << 10, ..gpu("RTX 4090", (8, 9)) };
        let error = code_for(&gpu, Version(13, 0), Version(12, 4)).unwrap_err().to_string();
        assert!(error.starts_with("GPU 3 is a RTX 4090 with 99 KiB of shared memory for a block"), "{error}");
    }

    #[test]
    fn an_old_driver_is_told_what_is_needed() {
        let driver = Version(12, 6);
        assert_eq!(code_for(&gpu("H100", (9, 0)), driver, Version(12, 9)).unwrap(), Code::Sm90a);
        let error = code_for(&gpu("B200", (10, 0)), driver, Version(12, 9)).unwrap_err().to_string();
        let expected = "the NVIDIA driver is too old: it is for CUDA 12.6, and B200 with kernels compiled by CUDA 12.9 \
                        needs 12.9 or newer";
        assert!(error.starts_with(expected), "{error}");
        let error = code_for(&gpu("H100", (9, 0)), driver, Version(13, 0)).unwrap_err().to_string();
        assert!(error.contains("needs 13.0 or newer"), "{error}");
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert!(parse("12.10") > parse("12.9"));
        assert_eq!(parse("13"), Version(13, 0));
    }
}
