//! The kernels of a context, by name.

use std::collections::HashMap;
use std::ffi::{CString, c_int, c_void};
use std::sync::Arc;

use ::cudarc::driver::sys::{self, CUfunction, CUfunction_attribute, CUmodule, CUresult, CUstream};

use super::call::check;
use super::context::Context;
use super::probe::Code;
use crate::cuda::LaunchConfig;
use crate::cuda::launch::MAX_ARGS;
use crate::cuda::modules::Module;
use crate::{KernelError, Result};

/// Loaded modules and what is in them. Loaded once, so that a launch only looks up.
pub(super) struct Kernels {
    context: Arc<Context>,
    by_name: HashMap<&'static str, Kernel>,
    modules: Vec<CUmodule>,
}

// SAFETY: handles of modules and functions belong to their context, not to a thread.
unsafe impl Send for Kernels {}
// SAFETY: as above; after loading nothing is changed.
unsafe impl Sync for Kernels {}

struct Kernel {
    function: CUfunction,
    max_threads: u32,
    max_shared_bytes: u32,
    /// Bytes of each parameter.
    parameters: Vec<usize>,
}

/// The arguments of a launch as the driver takes them: the first `bytes` of each value.
pub(super) struct Arguments {
    values: [u64; MAX_ARGS],
    bytes: [usize; MAX_ARGS],
    count: usize,
}

impl Arguments {
    /// None yet.
    pub(super) fn new() -> Self {
        Arguments { values: [0; MAX_ARGS], bytes: [0; MAX_ARGS], count: 0 }
    }

    /// Appends one.
    ///
    /// # Panics
    /// If there are too many.
    pub(super) fn push(&mut self, value: u64, bytes: usize) {
        assert!(self.count < MAX_ARGS, "a kernel of more than {MAX_ARGS} parameters");
        // Hosts of NVIDIA GPUs are little-endian: the first bytes are the low ones.
        self.values[self.count] = value;
        self.bytes[self.count] = bytes;
        self.count += 1;
    }

    fn bytes(&self) -> &[usize] {
        &self.bytes[..self.count]
    }
}

impl Kernels {
    /// Loads the kernels of these modules into a context.
    pub(super) fn load(
        context: Arc<Context>,
        code: Code,
        modules: impl Iterator<Item = &'static Module>,
    ) -> Result<Self> {
        context.enter()?;
        let max_shared_bytes = context.gpu().max_shared_bytes;
        // From here on dropping it unloads what is loaded.
        let mut kernels = Kernels { context, by_name: HashMap::new(), modules: Vec::new() };
        for module in modules {
            let loaded = load_module(module, code)?;
            kernels.modules.push(loaded);
            for resources in module.kernels {
                let function = function(loaded, resources.name)?;
                let kernel = Kernel {
                    function,
                    max_threads: resources.max_threads,
                    max_shared_bytes: allow_shared_memory(function, max_shared_bytes)?,
                    parameters: parameters(function)?,
                };
                kernels.by_name.insert(resources.name, kernel);
            }
        }
        Ok(kernels)
    }

    /// Whether there is a kernel of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Queues a kernel on a stream of the current context.
    ///
    /// # Safety
    /// `stream` is alive. Every address among the arguments leads to device memory that is large enough for what the
    /// kernel does with it and lives until the stream has passed this launch.
    pub(super) unsafe fn launch(
        &self,
        name: &str,
        config: LaunchConfig,
        arguments: &mut Arguments,
        stream: CUstream,
    ) -> Result<()> {
        let kernel = self.by_name.get(name).ok_or_else(|| refusal(name, "there is no such kernel".into()))?;
        kernel.check(name, config, arguments.bytes())?;
        let mut pointers = [std::ptr::null_mut::<c_void>(); MAX_ARGS];
        for (pointer, value) in pointers.iter_mut().zip(&mut arguments.values) {
            *pointer = (value as *mut u64).cast();
        }
        let ([x, y, z], threads, shared) = (config.grid, config.threads, config.shared_bytes);
        // SAFETY: the function is one of a loaded module. It has as many parameters as there are arguments, of the
        // same sizes, as was just checked; the driver copies them before it returns. The rest is the caller's promise.
        let answer = unsafe {
            sys::cuLaunchKernel(
                kernel.function,
                x,
                y,
                z,
                threads,
                1,
                1,
                shared,
                stream,
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        if answer == CUresult::CUDA_SUCCESS {
            Ok(())
        } else {
            check(&format!("cuLaunchKernel of {name}"), answer)
        }
    }
}

impl Kernel {
    fn check(&self, name: &str, config: LaunchConfig, argument_bytes: &[usize]) -> Result<()> {
        if argument_bytes != self.parameters {
            let parameters = &self.parameters;
            let message = format!("arguments of {argument_bytes:?} bytes for parameters of {parameters:?}");
            return Err(refusal(name, message));
        }
        if config.threads > self.max_threads {
            let message = format!("a block of {} threads, at most {}", config.threads, self.max_threads);
            return Err(refusal(name, message));
        }
        if config.shared_bytes > self.max_shared_bytes {
            let message = format!(
                "{} bytes of shared memory, but this GPU has {} for a block",
                config.shared_bytes, self.max_shared_bytes
            );
            return Err(refusal(name, message));
        }
        Ok(())
    }
}

fn refusal(name: &str, message: String) -> KernelError {
    KernelError::Device(format!("launch of {name}: {message} (please report this)"))
}

impl Drop for Kernels {
    /// There is nobody to tell of an error.
    fn drop(&mut self) {
        if self.context.finish() {
            for module in self.modules.drain(..) {
                // SAFETY: loaded once, unloaded once, when nothing queued runs its functions, whose handles go with
                // `self`; graphs that have recorded them hold `self`.
                let _ = unsafe { sys::cuModuleUnload(module) };
            }
        }
    }
}

fn load_module(module: &Module, code: Code) -> Result<CUmodule> {
    let (image, what) = match code {
        Code::Sm80 => (module.sm_80, "sm_80"),
        Code::Sm90a => (module.sm_90a, "sm_90a"),
        Code::Ptx => (module.ptx, "PTX"),
    };
    let mut loaded = std::ptr::null_mut();
    // SAFETY: an image that our build has embedded: ELF, whose headers tell its length, or text that ends with a zero.
    // The driver copies what it needs and writes one handle.
    let answer = unsafe { sys::cuModuleLoadData(&mut loaded, image.as_ptr().cast()) };
    check(&format!("cuModuleLoadData of {} for {what}", module.family), answer)?;
    Ok(loaded)
}

fn function(module: CUmodule, name: &str) -> Result<CUfunction> {
    let c_name = CString::new(name).expect("names of kernels have no zero byte");
    let mut function = std::ptr::null_mut();
    // SAFETY: a loaded module and a string that ends with a zero; the driver writes one handle.
    let answer = unsafe { sys::cuModuleGetFunction(&mut function, module, c_name.as_ptr()) };
    check(&format!("cuModuleGetFunction of {name}"), answer)?;
    Ok(function)
}

/// Lets a kernel ask for all shared memory of a block that it has not taken by itself, and returns how much that is.
/// Without this a launch is limited to 48 KiB; what a launch does not ask for stays cache.
fn allow_shared_memory(function: CUfunction, max_shared_bytes: u32) -> Result<u32> {
    let mut taken: c_int = 0;
    let size = CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
    // SAFETY: a function of a loaded module; the driver writes one integer.
    check("cuFuncGetAttribute", unsafe { sys::cuFuncGetAttribute(&mut taken, size, function) })?;
    let allowed = max_shared_bytes.saturating_sub(taken.unsigned_abs());
    let limit = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    // SAFETY: a function of a loaded module and plain values.
    let answer = unsafe { sys::cuFuncSetAttribute(function, limit, allowed.cast_signed()) };
    check("cuFuncSetAttribute", answer)?;
    Ok(allowed)
}

/// Bytes of every parameter of a kernel.
fn parameters(function: CUfunction) -> Result<Vec<usize>> {
    let mut sizes = Vec::new();
    for index in 0..MAX_ARGS {
        let (mut offset, mut size) = (0, 0);
        // SAFETY: a function of a loaded module; the driver writes two lengths.
        match unsafe { sys::cuFuncGetParamInfo(function, index, &mut offset, &mut size) } {
            // There is no parameter of this index.
            CUresult::CUDA_ERROR_INVALID_VALUE => break,
            answer => check("cuFuncGetParamInfo", answer)?,
        }
        sizes.push(size);
    }
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::modules::{INSTRUCTIONS, MODULES};

    fn kernel() -> Kernel {
        let parameters = vec![8, 8, 4];
        Kernel { function: std::ptr::null_mut(), max_threads: 256, max_shared_bytes: 1000, parameters }
    }

    fn config(threads: u32, shared_bytes: u32) -> LaunchConfig {
        LaunchConfig { grid: [1, 1, 1], threads, shared_bytes }
    }

    #[test]
    fn a_launch_that_does_not_fit_its_kernel_is_refused() {
        let refused =
            |config, bytes: &[usize]| kernel().check("fill", config, bytes).unwrap_err().to_string();
        assert!(kernel().check("fill", config(256, 1000), &[8, 8, 4]).is_ok());
        let message = refused(config(256, 0), &[8, 4, 8]);
        let expected =
            "launch of fill: arguments of [8, 4, 8] bytes for parameters of [8, 8, 4] (please report this)";
        assert_eq!(message, expected);
        assert!(refused(config(256, 0), &[8, 8]).contains("[8, 8] bytes for parameters"));
        assert!(refused(config(512, 0), &[8, 8, 4]).contains("a block of 512 threads, at most 256"));
        assert!(refused(config(64, 1001), &[8, 8, 4]).contains("1001 bytes of shared memory"));
    }

    #[test]
    fn there_is_room_for_the_arguments_of_every_kernel() {
        let all = MODULES.iter().chain(INSTRUCTIONS);
        let kernels = all.flat_map(|module| module.kernels.iter().map(|kernel| (module.ptx, kernel.name)));
        let counts: Vec<(usize, &str)> =
            kernels.map(|(ptx, name)| (parameters_in(ptx, name), name)).collect();
        let (most, name) = counts.iter().max().copied().unwrap();
        assert!(most <= MAX_ARGS, "{name} has {most} parameters");
        assert!(counts.contains(&(36, "combine_sum_f32")), "parameters are counted wrong");
    }

    /// Counts those of a kernel in its PTX.
    fn parameters_in(ptx: &[u8], name: &str) -> usize {
        let ptx = std::str::from_utf8(ptx).unwrap();
        let (_, entry) = ptx.split_once(&format!(".entry {name}(")).unwrap();
        entry.split(')').next().unwrap().matches(".param ").count()
    }

    #[test]
    fn arguments_keep_their_order_and_sizes() {
        let mut arguments = Arguments::new();
        arguments.push(0x1122_3344_5566_7788, 8);
        arguments.push(u64::from(1.5_f32.to_bits()), 4);
        assert_eq!(arguments.bytes(), [8, 4]);
        assert_eq!(arguments.values[1].to_ne_bytes()[..4], 1.5_f32.to_le_bytes());
    }
}
